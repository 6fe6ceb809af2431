"""Who carries email and SMS: one module each, with `base` for what they promise and this table of their names."""

from __future__ import annotations

from notifier.states import Channel

#: every provider there is by its name, and the channel it carries
PROVIDERS: dict[str, Channel] = {"smtp": Channel.EMAIL, "brevo-email": Channel.EMAIL, "brevo-sms": Channel.SMS}
