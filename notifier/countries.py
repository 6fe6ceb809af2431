"""Which numbering plan belongs to a country as a list writes it. Pure."""

from __future__ import annotations

import functools
import re

from notifier.addresses import folded

#: ISO 3166-1 code, then French, English and own names as `folded` writes them; countries with a plan of their own,
#: without France and its territories
_COUNTRIES = """
    AC; AD andorre andorra; AE emiratsarabesunis unitedarabemirates; AF afghanistan; AG antiguaetbarbuda
    antiguaandbarbuda; AI anguilla; AL albanie albania; AM armenie armenia; AO angola; AR argentine argentina; AS
    samoaamericaines americansamoa; AT autriche austria osterreich aut; AU australie australia; AW aruba; AX
    ilesaland alandislands; AZ azerbaidjan azerbaijan; BA bosnieherzegovine bosniaandherzegovina; BB barbade
    barbados; BD bangladesh; BE belgique belgium belgie belgien bel; BF burkinafaso; BG bulgarie bulgaria; BH
    bahrein bahrain; BI burundi; BJ benin; BM bermudes bermuda; BN brunei; BO bolivie bolivia; BQ
    bonairesainteustacheetsaba bonairesinteustatiusandsaba; BR bresil brazil; BS bahamas; BT bhoutan bhutan; BW
    botswana; BY bielorussie belarus; BZ belize; CA canada can; CC ilescocos cocosislands; CD
    republiquedemocratiqueducongo thedemocraticrepublicofcongo rdc; CF republiquecentreafricaine
    centralafricanrepublic; CG congo; CH suisse switzerland schweiz svizzera che; CI cotedivoire; CK ilescook
    cookislands; CL chili chile; CM cameroun cameroon; CN chine china; CO colombie colombia; CR costarica; CU cuba;
    CV capvert capeverde; CW curacao; CX ilechristmas christmasisland; CY chypre cyprus; CZ republiquetcheque
    czechrepublic; DE allemagne germany deutschland deu allemange; DJ djibouti; DK danemark denmark; DM dominique
    dominica; DO republiquedominicaine dominicanrepublic; DZ algerie algeria dza; EC equateur ecuador; EE estonie
    estonia; EG egypte egypt; EH saharaoccidental westernsahara; ER erythree eritrea; ES espagne spain espana esp;
    ET ethiopie ethiopia; FI finlande finland; FJ fidji fiji; FK ilesmalouines falklandislands; FM micronesie
    micronesia; FO ilesferoe faroeislands; GA gabon; GB royaumeuni unitedkingdom uk angleterre ecosse paysdegalles
    england scotland wales grandebretagne greatbritain gbr; GD grenade grenada; GE georgie georgia; GG guernesey
    guernsey; GH ghana; GI gibraltar; GL groenland greenland; GM gambie gambia; GN guinee guinea; GQ
    guineeequatoriale equatorialguinea; GR grece greece; GT guatemala; GU guam; GW guineebissau guineabissau; GY
    guyana; HK hongkong; HN honduras; HR croatie croatia; HT haiti; HU hongrie hungary; ID indonesie indonesia; IE
    irlande ireland; IL israel; IM iledeman isleofman; IN inde india; IO territoiresbritanniquesdeloceanindien
    britishindianoceanterritory; IQ irak iraq; IR iran; IS islande iceland; IT italie italy italia ita; JE jersey;
    JM jamaique jamaica; JO jordanie jordan; JP japon japan; KE kenya; KG kyrgyzstan; KH cambodge cambodia; KI
    kiribati; KM comores comoros; KN saintchristopheetnieves saintkittsandnevis; KP coreedunord northkorea; KR
    coreedusud southkorea; KW koweit kuwait; KY ilescaimans caymanislands; KZ kazakhstan; LA laos; LB liban
    lebanon; LC saintelucie saintlucia; LI liechtenstein; LK srilanka; LR liberia; LS lesotho; LT lithuanie
    lithuania; LU luxembourg lux grandduchedeluxembourg; LV lettonie latvia; LY libye libya; MA maroc morocco mar;
    MC monaco; MD moldavie moldova; ME montenegro; MG madagascar; MH ilesmarshall marshallislands; MK macedoine
    macedonia; ML mali; MM myanmar; MN mongolie mongolia; MO macao; MP ilesmariannesdunord northernmarianaislands;
    MR mauritanie mauritania; MS montserrat; MT malte malta; MU maurice mauritius; MV maldives; MW malawi; MX
    mexique mexico; MY malaisie malaysia; MZ mozambique; NA namibie namibia; NE niger; NF ilenorfolk norfolkisland;
    NG nigeria; NI nicaragua; NL paysbas netherlands hollande holland nederland nld; NO norvege norway; NP nepal;
    NR nauru; NU niue; NZ nouvellezelande newzealand; OM oman; PA panama; PE perou peru; PG papouasienouvelleguinee
    papuanewguinea; PH philippines; PK pakistan; PL pologne poland polska; PR portorico puertorico; PS palestine;
    PT portugal prt; PW belau palau; PY paraguay; QA qatar; RO roumanie romania; RS serbie serbia; RU russie
    russia; RW rwanda; SA arabiesaoudite saudiarabia; SB ilessalomon solomonislands; SC seychelles; SD soudan
    sudan; SE suede sweden; SG singapour singapore; SH saintehelene sainthelena; SI slovenie slovenia; SJ
    svalbardetjanmayen svalbardandjanmayen; SK slovaquie slovakia; SL sierraleone; SM saintmarin sanmarino; SN
    senegal; SO somalie somalia; SR suriname; SS sudsoudan southsudan; ST saotomeetprincipe saotomeandprincipe; SV
    elsalvador; SX saintmartinpartieneerlandaise sintmaartendutchpart; SY syrie syria; SZ swaziland; TA; TC
    ilesturksetcaicos turksandcaicosislands; TD tchad chad; TG togo; TH thailande thailand; TJ tadjikistan
    tajikistan; TK tokelau; TL timorleste; TM turkmenistan; TN tunisie tunisia tun; TO tonga; TR turquie turkey; TT
    triniteettobago trinidadandtobago; TV tuvalu; TW taiwan; TZ tanzanie tanzania; UA ukraine; UG ouganda uganda;
    US etatsunis unitedstates usa etatsunisdamerique unitedstatesofamerica; UY uruguay; UZ ouzbekistan uzbekistan;
    VA vatican; VC saintvincentetlesgrenadines saintvincentandthegrenadines; VE venezuela; VG
    ilesviergesbritanniques britishvirginislands; VI ilesviergesamericaines usvirginislands; VN vietnam; VU
    vanuatu; WS samoa; XK; YE yemen; ZA afriquedusud southafrica; ZM zambie zambia; ZW zimbabwe
"""


@functools.cache
def _codes() -> dict[str, str]:
    countries = [country.split() for country in _COUNTRIES.split(";")]
    return {name.casefold(): names[0] for names in countries for name in names}


@functools.lru_cache(maxsize=4096)
def abroad(country: str | None) -> str | None:
    """The ISO 3166-1 code of a country by its code or its French or English name.

    None for France and its territories, for an empty cell, and for a country that is not known.
    """
    if not country:
        return None
    known = _codes()
    parts = (known.get(folded(part)) for part in re.split(r"[(),/;]| - ", country))
    return known.get(folded(country)) or next(filter(None, parts), None)
