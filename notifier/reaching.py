"""Whom a message may still go to, and the next contact of those who have none on its way, as statements.

A failed delivery (`fallback`), a further list (`fanout`) and a claim (`store`) must agree on these; so they stand
here once. Everything here is text for PostgreSQL, put together from our own words.
"""

from __future__ import annotations

from notifier.states import Campaign, Channel, Delivery, Outcome, Unreached, Variant

#: why a delivery was cancelled before it went out: all it is for were told by another message
INFORMED_MEANWHILE = "informed_meanwhile"
#: nobody it is for has this contact any more, or is to be told, or to be told this text
WITHDRAWN = "withdrawn"


def is_set_aside(delivery: str) -> str:
    """Cancelled because nobody needed it then; its contact counts as not tried, and it may be needed after all."""
    reason = f"coalesce({delivery}.reason, '')"
    return f"({delivery}.state = '{Delivery.CANCELLED}' AND {reason} IN ('{INFORMED_MEANWHILE}', '{WITHDRAWN}'))"


def has_told(delivery: str) -> str:
    """It reached somebody: confirmed, or accepted and nothing has come back within the time of the rules."""
    accepted = f"{delivery}.state = '{Delivery.ACCEPTED}' AND {delivery}.due_at IS NULL"
    return f"({delivery}.state = '{Delivery.DELIVERED}' OR ({accepted}))"


def is_wanted(delivery: str) -> str:
    """Somebody it is for is to be told and has this contact, and its text fits all those.

    The language and variant of an email are the patient's own. An SMS has the language of one of them, and names
    what any of them needs named.
    """
    return f"""
    coalesce((
        SELECT bool_or(p.language = {delivery}.language) AND bool_and(
            p.outcome = '{Outcome.INFORMED}' OR p.variant = {delivery}.variant
            OR ({delivery}.addressee_id IS NULL AND {delivery}.variant = '{Variant.COMMENT}')
        )
        FROM delivery_patient dp JOIN patient p ON p.id = dp.patient_id
        JOIN patient_contact pc ON pc.patient_id = p.id AND pc.contact_id = {delivery}.contact_id
        WHERE dp.delivery_id = {delivery}.id AND p.outcome <> '{Outcome.EXCLUDED}'
    ), false)
    """  # noqa: S608 - put together from our own words


def next_contact(people: str) -> str:
    """Gives each of `people` the next contact not tried yet, in the order of the campaign's plan; returns whom.

    `people` selects id, campaign_id, doctor_id, language and variant of patients with no message on its way.
    Parameters: `now`, `to_on_the_way`. An SMS that already went to this number in a variant that covers the person
    serves them too; it is then due here again, so that its result counts for them.
    """
    return f"""
    WITH people AS MATERIALIZED ({people}),
    next AS MATERIALIZED (
        SELECT DISTINCT ON (p.id) p.*, k.id AS contact_id, k.channel,
               CASE WHEN k.channel = '{Channel.EMAIL}' THEN p.id END AS addressee_id
        FROM people p
        JOIN campaign c ON c.id = p.campaign_id AND c.state <> '{Campaign.CANCELLED}'
        JOIN patient_contact pc ON pc.patient_id = p.id
        JOIN contact k ON k.id = pc.contact_id AND k.channel = ANY(c.plan)
        WHERE NOT EXISTS (
            SELECT FROM delivery_patient dp2 JOIN delivery d2 ON d2.id = dp2.delivery_id
            WHERE dp2.patient_id = p.id AND d2.contact_id = k.id AND NOT {is_set_aside("d2")}
        )
        ORDER BY p.id, array_position(c.plan, k.channel), pc.rank
    ), existing AS MATERIALIZED (
        SELECT next.id AS patient_id, min(d.id) AS delivery_id
        FROM next JOIN delivery d
          ON d.contact_id = next.contact_id AND d.addressee_id IS NULL AND next.addressee_id IS NULL
         AND d.variant IN (next.variant, '{Variant.COMMENT}') AND NOT {is_set_aside("d")}
        GROUP BY next.id
    ), fresh AS MATERIALIZED (
        SELECT contact_id, addressee_id, channel, campaign_id, min(doctor_id) AS doctor_id,
               (array_agg(language ORDER BY id))[1] AS language,
               CASE WHEN bool_or(variant = '{Variant.COMMENT}')
                    THEN '{Variant.COMMENT}' ELSE '{Variant.STANDARD}' END AS variant
        FROM next WHERE id NOT IN (SELECT patient_id FROM existing)
        GROUP BY contact_id, addressee_id, channel, campaign_id
    ), revived AS (
        -- due later than now, so that a round that also hands on its end does not call it done
        UPDATE delivery d
        SET state = '{Delivery.PENDING}', due_at = CAST(:now AS timestamptz) + interval '1 millisecond',
            reason = NULL, language = fresh.language
        FROM fresh
        WHERE d.contact_id = fresh.contact_id AND d.addressee_id IS NOT DISTINCT FROM fresh.addressee_id
          AND d.variant = fresh.variant AND {is_set_aside("d")}
        RETURNING d.id, d.contact_id, d.addressee_id
    ), made AS (
        INSERT INTO delivery (campaign_id, doctor_id, contact_id, addressee_id, channel, language, variant, due_at)
        SELECT campaign_id, doctor_id, contact_id, addressee_id, channel, language, variant,
               CAST(:now AS timestamptz)
        FROM fresh
        WHERE NOT EXISTS (
            SELECT FROM delivery d
            WHERE d.contact_id = fresh.contact_id AND d.addressee_id IS NOT DISTINCT FROM fresh.addressee_id
              AND d.variant = fresh.variant
        )
        ON CONFLICT DO NOTHING
        RETURNING id, contact_id, addressee_id
    ), given AS MATERIALIZED (
        SELECT delivery_id, patient_id FROM existing
        UNION ALL
        SELECT g.id, next.id
        FROM (
            SELECT id, contact_id, addressee_id FROM made
            UNION ALL
            SELECT id, contact_id, addressee_id FROM revived
        ) g JOIN next
          ON next.contact_id = g.contact_id AND next.addressee_id IS NOT DISTINCT FROM g.addressee_id
        WHERE next.id NOT IN (SELECT patient_id FROM existing)
    ), linked AS (
        INSERT INTO delivery_patient (delivery_id, patient_id, doctor_id)
        SELECT given.delivery_id, next.id, next.doctor_id FROM given JOIN next ON next.id = given.patient_id
        ON CONFLICT DO NOTHING
    ), again AS (
        -- the same
        UPDATE delivery d SET due_at = CAST(:now AS timestamptz) + interval '1 millisecond'
        WHERE d.id IN (SELECT delivery_id FROM existing)
          AND d.state IN ('{Delivery.DELIVERED}', '{Delivery.FAILED}', '{Delivery.QUARANTINED}')
    ), moved AS (
        UPDATE patient p SET outcome = '{Outcome.ON_THE_WAY}', outcome_reason = NULL, outcome_at = :now
        WHERE p.id IN (SELECT patient_id FROM given) AND p.outcome = ANY(:to_on_the_way)
    )
    SELECT patient_id FROM given
    """  # noqa: S608 - put together from our own words


def give_up(people: str) -> str:
    """Says of each of `people` (see `next_contact`), but for `moved`, why they cannot be reached; returns whom.

    Parameters: `now`, `to_unreached`, `moved`.
    """
    return f"""
    WITH people AS MATERIALIZED ({people}),
    lost AS (
        SELECT p.id,
               CASE WHEN c.state = '{Campaign.CANCELLED}' THEN '{Unreached.CANCELLED}'
                    WHEN NOT EXISTS (
                        SELECT FROM patient_contact pc WHERE pc.patient_id = p.id
                    ) THEN '{Unreached.NO_CONTACT}'
                    WHEN EXISTS (
                        SELECT FROM delivery_patient dp2 JOIN delivery d2 ON d2.id = dp2.delivery_id
                        WHERE dp2.patient_id = p.id AND d2.state = '{Delivery.QUARANTINED}'
                    ) THEN '{Unreached.QUARANTINED}'
                    ELSE '{Unreached.ALL_FAILED}' END AS reason
        FROM people p JOIN campaign c ON c.id = p.campaign_id
    )
    UPDATE patient p SET outcome = '{Outcome.UNREACHED}', outcome_reason = lost.reason, outcome_at = :now
    FROM lost
    WHERE p.id = lost.id AND p.outcome = ANY(:to_unreached) AND p.id <> ALL(CAST(:moved AS bigint[]))
    RETURNING p.id
    """  # noqa: S608 - put together from our own words
