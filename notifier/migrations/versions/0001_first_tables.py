"""The first tables, with what is dear to add later: sealed columns, row-level security, append-only proof."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "doctor",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("practice", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("phone", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_doctor")),
        sa.UniqueConstraint("reference", name=op.f("uq_doctor_reference")),
    )
    op.create_table(
        "breaker",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("level", sa.SmallInteger(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("state IN ('open', 'probing', 'healing')", name=op.f("ck_breaker_state")),
        sa.PrimaryKeyConstraint("scope", name=op.f("pk_breaker")),
    )
    op.create_table(
        "heartbeat",
        sa.Column("process", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("keys", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("process", name=op.f("pk_heartbeat")),
    )
    op.create_table(
        "hold",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("scope", name=op.f("pk_hold")),
    )
    op.create_table(
        "incident",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("profile", sa.Text(), nullable=False),
        sa.Column("facts", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_incident")),
        sa.UniqueConstraint("reference", name=op.f("uq_incident_reference")),
    )
    op.create_table(
        "journal",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("doctor_id", sa.BigInteger(), nullable=True),
        sa.Column("detail", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False),
        sa.Column("previous", sa.LargeBinary(), nullable=True),
        sa.Column("hash", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_journal")),
    )
    op.create_table(
        "api_key",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("doctor_id", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["doctor_id"], ["doctor.id"], name=op.f("fk_api_key_doctor_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_key")),
        sa.UniqueConstraint("hash", name=op.f("uq_api_key_hash")),
    )
    op.create_table(
        "campaign",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("incident_id", sa.BigInteger(), nullable=False),
        sa.Column("doctor_id", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), server_default="draft", nullable=False),
        sa.Column("epoch", sa.Integer(), server_default="0", nullable=False),
        sa.Column("plan", sa.ARRAY(sa.Text()), server_default="{email,sms}", nullable=False),
        sa.Column("data_key", sa.LargeBinary(), nullable=True),
        sa.Column("notice_hash", sa.LargeBinary(), nullable=True),
        sa.Column("approved_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("approved_by", sa.Text(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "state IN ('draft', 'ready', 'approved', 'sending', 'paused', 'completed', 'cancelled')",
            name=op.f("ck_campaign_state"),
        ),
        sa.ForeignKeyConstraint(["doctor_id"], ["doctor.id"], name=op.f("fk_campaign_doctor_id")),
        sa.ForeignKeyConstraint(["incident_id"], ["incident.id"], name=op.f("fk_campaign_incident_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_campaign")),
    )
    op.create_index(
        "uq_campaign_incident_id_doctor_id",
        "campaign",
        ["incident_id", "doctor_id"],
        unique=True,
        postgresql_where=sa.text("state <> 'cancelled' OR started_at IS NOT NULL"),
    )
    op.create_index("ix_campaign_doctor_id", "campaign", ["doctor_id"], unique=False)
    op.create_index(
        "ix_campaign_sending", "campaign", ["id"], unique=False, postgresql_where=sa.text("state = 'sending'")
    )
    op.create_table(
        "contact",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("campaign_id", sa.BigInteger(), nullable=False),
        sa.Column("doctor_id", sa.BigInteger(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("value_blind", sa.LargeBinary(), nullable=False),
        sa.Column("value_sealed", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("channel IN ('email', 'sms')", name=op.f("ck_contact_channel")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_contact")),
        sa.UniqueConstraint(
            "campaign_id", "channel", "value_blind", name=op.f("uq_contact_campaign_id_channel_value_blind")
        ),
    )
    op.create_table(
        "idempotent_request",
        sa.Column("api_key_id", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["api_key_id"], ["api_key.id"], name=op.f("fk_idempotent_request_api_key_id")),
        sa.PrimaryKeyConstraint("api_key_id", "key", name=op.f("pk_idempotent_request")),
    )
    op.create_table(
        "list_file",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("campaign_id", sa.BigInteger(), nullable=False),
        sa.Column("doctor_id", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("accepted_of", sa.BigInteger(), nullable=True),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("accepted", sa.Integer(), nullable=False),
        sa.Column("merged", sa.Integer(), nullable=False),
        sa.Column("refused", sa.Integer(), nullable=False),
        sa.Column("imported_by", sa.Text(), nullable=False),
        sa.Column("imported_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("fk_list_file_campaign_id")),
        sa.ForeignKeyConstraint(["doctor_id"], ["doctor.id"], name=op.f("fk_list_file_doctor_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_list_file")),
    )
    op.create_index("ix_list_file_campaign_id", "list_file", ["campaign_id", "sha256"], unique=False)
    op.create_table(
        "notice",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("campaign_id", sa.BigInteger(), nullable=False),
        sa.Column("doctor_id", sa.BigInteger(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("language", sa.Text(), nullable=False),
        sa.Column("variant", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("html", sa.Text(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("frozen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("channel IN ('email', 'sms')", name=op.f("ck_notice_channel")),
        sa.CheckConstraint("variant IN ('standard', 'comment')", name=op.f("ck_notice_variant")),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("fk_notice_campaign_id")),
        sa.ForeignKeyConstraint(["doctor_id"], ["doctor.id"], name=op.f("fk_notice_doctor_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notice")),
        sa.UniqueConstraint(
            "campaign_id",
            "version",
            "channel",
            "language",
            "variant",
            name=op.f("uq_notice_campaign_id_version_channel_language_variant"),
        ),
    )
    op.create_table(
        "list_problem",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("list_file_id", sa.BigInteger(), nullable=False),
        sa.Column("doctor_id", sa.BigInteger(), nullable=False),
        sa.Column("row", sa.Integer(), nullable=False),
        sa.Column("column", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_list_problem")),
    )
    op.create_index("ix_list_problem_list_file_id", "list_problem", ["list_file_id", "row"], unique=False)
    op.create_table(
        "list_mapping",
        sa.Column("doctor_id", sa.BigInteger(), nullable=False),
        sa.Column("layout", sa.LargeBinary(), nullable=False),
        sa.Column("mapping", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("sheet", sa.Text(), nullable=True),
        sa.Column("said_by", sa.Text(), nullable=False),
        sa.Column("said_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["doctor_id"], ["doctor.id"], name=op.f("fk_list_mapping_doctor_id")),
        sa.PrimaryKeyConstraint("doctor_id", "layout", name=op.f("pk_list_mapping")),
    )
    op.create_table(
        "list_upload",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("campaign_id", sa.BigInteger(), nullable=False),
        sa.Column("doctor_id", sa.BigInteger(), nullable=False),
        sa.Column("content_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("said_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("list_file_id", sa.BigInteger(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("fk_list_upload_campaign_id")),
        sa.ForeignKeyConstraint(["doctor_id"], ["doctor.id"], name=op.f("fk_list_upload_doctor_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_list_upload")),
    )
    op.create_index("ix_list_upload_campaign_id", "list_upload", ["campaign_id"], unique=False)
    op.create_index("ix_list_upload_at", "list_upload", ["at"], unique=False)
    op.create_table(
        "decision",
        sa.Column("problem_id", sa.BigInteger(), nullable=False),
        sa.Column("other_id", sa.BigInteger(), nullable=False),
        sa.Column("doctor_id", sa.BigInteger(), nullable=False),
        sa.Column("patient_id", sa.BigInteger(), nullable=False),
        sa.Column("is_same", sa.Boolean(), nullable=False),
        sa.Column("decided_by", sa.Text(), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("problem_id", "other_id", name=op.f("pk_decision")),
    )
    op.create_table(
        "change",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column(
            "xid", sa.BigInteger(), server_default=sa.text("(pg_current_xact_id()::text)::bigint"), nullable=False
        ),
        sa.Column("campaign_id", sa.BigInteger(), nullable=False),
        sa.Column("doctor_id", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("patients", sa.ARRAY(sa.BigInteger()), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_change")),
    )
    op.create_index("ix_change_order", "change", ["xid", "id"], unique=False)
    op.create_index("ix_change_campaign", "change", ["campaign_id", "xid", "id"], unique=False)
    op.create_index("ix_change_doctor", "change", ["doctor_id", "xid", "id"], unique=False)
    op.create_table(
        "callback",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("doctor_id", sa.BigInteger(), nullable=True),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("secret_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), server_default="active", nullable=False),
        sa.Column("xid", sa.BigInteger(), nullable=False),
        sa.Column("change_id", sa.BigInteger(), nullable=False),
        sa.Column("until_xid", sa.BigInteger(), nullable=True),
        sa.Column("until_id", sa.BigInteger(), nullable=True),
        sa.Column("replays", sa.Integer(), server_default="0", nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failing_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_code", sa.Text(), nullable=True),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("state IN ('active', 'stopped')", name=op.f("ck_callback_state")),
        sa.ForeignKeyConstraint(["doctor_id"], ["doctor.id"], name=op.f("fk_callback_doctor_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_callback")),
    )
    op.create_index(
        "ix_callback_due", "callback", ["due_at"], unique=False, postgresql_where=sa.text("state = 'active'")
    )
    op.create_table(
        "told",
        sa.Column("patient_id", sa.BigInteger(), nullable=False),
        sa.Column("doctor_id", sa.BigInteger(), nullable=False),
        sa.Column("how", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("reason_before", sa.Text(), nullable=True),
        sa.Column("said_by", sa.Text(), nullable=False),
        sa.Column("said_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("how IN ('letter', 'call', 'in_person')", name=op.f("ck_told_how")),
        sa.PrimaryKeyConstraint("patient_id", name=op.f("pk_told")),
    )
    op.create_table(
        "patient",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("campaign_id", sa.BigInteger(), nullable=False),
        sa.Column("doctor_id", sa.BigInteger(), nullable=False),
        sa.Column("list_file_id", sa.BigInteger(), nullable=False),
        sa.Column("listed_in", sa.BigInteger(), nullable=True),
        sa.Column("changed_in", sa.BigInteger(), nullable=True),
        sa.Column("row", sa.Integer(), nullable=False),
        sa.Column("merged", sa.Integer(), server_default="0", nullable=False),
        sa.Column("person_blind", sa.LargeBinary(), nullable=False),
        sa.Column("id_blind", sa.LargeBinary(), nullable=True),
        sa.Column("national_blind", sa.LargeBinary(), nullable=True),
        sa.Column("name_blind", sa.LargeBinary(), nullable=True),
        sa.Column("identity_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("has_postal", sa.Boolean(), nullable=False),
        sa.Column("is_minor", sa.Boolean(), server_default="false", nullable=False),
        sa.Column("language", sa.Text(), nullable=False),
        sa.Column("variant", sa.Text(), server_default="standard", nullable=False),
        sa.Column("comment_sensitive", sa.Boolean(), server_default="false", nullable=False),
        sa.Column("affected", sa.Boolean(), nullable=True),
        sa.Column("outcome", sa.Text(), server_default="on_the_way", nullable=False),
        sa.Column("outcome_reason", sa.Text(), nullable=True),
        sa.Column("outcome_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "outcome IN ('excluded', 'on_the_way', 'informed', 'unreached')", name=op.f("ck_patient_outcome")
        ),
        sa.CheckConstraint("variant IN ('standard', 'comment')", name=op.f("ck_patient_variant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_patient")),
        sa.UniqueConstraint("campaign_id", "person_blind", name=op.f("uq_patient_campaign_id_person_blind")),
    )
    op.create_index("ix_patient_campaign_outcome", "patient", ["campaign_id", "outcome", "id"], unique=False)
    op.create_index(
        "ix_patient_merged", "patient", ["campaign_id", "id"], unique=False, postgresql_where=sa.text("merged > 0")
    )
    op.create_table(
        "delivery",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("campaign_id", sa.BigInteger(), nullable=False),
        sa.Column("doctor_id", sa.BigInteger(), nullable=False),
        sa.Column("contact_id", sa.BigInteger(), nullable=False),
        sa.Column("addressee_id", sa.BigInteger(), nullable=True),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("language", sa.Text(), nullable=False),
        sa.Column("variant", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=True),
        sa.Column("fence", sa.Integer(), server_default="0", nullable=False),
        sa.Column("first_tried_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("tries", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("crashes", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("possibly_twice", sa.Boolean(), server_default="false", nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("receipt_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("channel IN ('email', 'sms')", name=op.f("ck_delivery_channel")),
        sa.CheckConstraint(
            "state IN ('pending', 'sending', 'unknown', 'accepted', 'delivered', 'failed', 'cancelled', 'quarantined')",
            name=op.f("ck_delivery_state"),
        ),
        sa.CheckConstraint("variant IN ('standard', 'comment')", name=op.f("ck_delivery_variant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delivery")),
        postgresql_with={"fillfactor": "50"},
    )
    op.create_index("ix_delivery_campaign", "delivery", ["campaign_id", "id"], unique=False)
    op.create_index(
        "uq_delivery_contact_addressee",
        "delivery",
        ["contact_id", "addressee_id", "variant"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_table(
        "patient_contact",
        sa.Column("patient_id", sa.BigInteger(), nullable=False),
        sa.Column("contact_id", sa.BigInteger(), nullable=False),
        sa.Column("doctor_id", sa.BigInteger(), nullable=False),
        sa.Column("rank", sa.SmallInteger(), nullable=False),
        sa.PrimaryKeyConstraint("patient_id", "contact_id", name=op.f("pk_patient_contact")),
    )
    op.create_index("ix_patient_contact_contact_id", "patient_contact", ["contact_id"], unique=False)
    op.create_table(
        "attempt",
        sa.Column("delivery_id", sa.BigInteger(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("doctor_id", sa.BigInteger(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("notice_id", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("code", sa.Text(), nullable=True),
        sa.Column("provider_message_id", sa.Text(), nullable=True),
        sa.Column("raw_sealed", sa.LargeBinary(), nullable=True),
        sa.CheckConstraint("outcome IN ('accepted', 'refused', 'unknown')", name=op.f("ck_attempt_outcome")),
        sa.PrimaryKeyConstraint("delivery_id", "fence", name=op.f("pk_attempt")),
        postgresql_with={"fillfactor": "60"},
    )
    op.create_table(
        "delivery_patient",
        sa.Column("delivery_id", sa.BigInteger(), nullable=False),
        sa.Column("patient_id", sa.BigInteger(), nullable=False),
        sa.Column("doctor_id", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("delivery_id", "patient_id", name=op.f("pk_delivery_patient")),
    )
    op.create_index("ix_delivery_patient_patient_id", "delivery_patient", ["patient_id"], unique=False)
    op.create_table(
        "due",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("campaign_id", sa.BigInteger(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("together", sa.Boolean(), server_default="true", nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ids", sa.ARRAY(sa.BigInteger()), nullable=False),
        sa.Column("fences", sa.ARRAY(sa.Integer()), nullable=True),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.CheckConstraint("kind IN ('send', 'lease', 'settle')", name=op.f("ck_due_kind")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_due")),
        postgresql_with={
            "autovacuum_vacuum_scale_factor": "0",
            "autovacuum_vacuum_threshold": "2000",
            "autovacuum_vacuum_cost_delay": "0",
        },
    )
    op.create_index(
        "ix_due_send",
        "due",
        ["campaign_id", "channel", "together", "at"],
        unique=False,
        postgresql_where=sa.text("kind = 'send'"),
    )
    op.create_index(
        "ix_due_sweep", "due", ["kind", "at"], unique=False, postgresql_where=sa.text("kind <> 'send'")
    )
    op.create_table(
        "tally",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("campaign_id", sa.BigInteger(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tally")),
    )
    op.create_index("ix_tally_campaign", "tally", ["campaign_id"], unique=False)
    op.create_table(
        "patient_tally",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("campaign_id", sa.BigInteger(), nullable=False),
        sa.Column("language", sa.Text(), nullable=False),
        sa.Column("variant", sa.Text(), nullable=False),
        sa.Column("has_postal", sa.Boolean(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("merged", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_patient_tally")),
    )
    op.create_index("ix_patient_tally_campaign", "patient_tally", ["campaign_id"], unique=False)
    op.create_table(
        "bounce",
        sa.Column("campaign_id", sa.BigInteger(), nullable=False),
        sa.Column("n", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("results_before", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("campaign_id", name=op.f("pk_bounce")),
    )
    op.create_table(
        "pace",
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("process", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("receiver", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("at", "process", "provider", "receiver", "outcome", "code", name=op.f("pk_pace")),
    )
    op.create_table(
        "receipt",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("delivery_id", sa.BigInteger(), nullable=False),
        sa.Column("campaign_id", sa.BigInteger(), nullable=False),
        sa.Column("doctor_id", sa.BigInteger(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("event_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("provider_message_id", sa.Text(), nullable=True),
        sa.Column("body_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("dedup", sa.LargeBinary(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("applied_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("effect", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("fk_receipt_campaign_id")),
        sa.ForeignKeyConstraint(["delivery_id"], ["delivery.id"], name=op.f("fk_receipt_delivery_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_receipt")),
        sa.UniqueConstraint("dedup", name=op.f("uq_receipt_dedup")),
    )
    op.create_index("ix_receipt_delivery_id", "receipt", ["delivery_id"], unique=False)
    op.create_index(
        "ix_receipt_unapplied", "receipt", ["id"], unique=False, postgresql_where=sa.text("applied_at IS NULL")
    )
    op.create_table(
        "test_send",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("campaign_id", sa.BigInteger(), nullable=False),
        sa.Column("doctor_id", sa.BigInteger(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("language", sa.Text(), nullable=False),
        sa.Column("variant", sa.Text(), nullable=False),
        sa.Column("contact_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("notice_hash", sa.LargeBinary(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("html", sa.Text(), nullable=False),
        sa.Column("asked_by", sa.Text(), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("state", sa.Text(), server_default="queued", nullable=False),
        sa.Column("code", sa.Text(), nullable=True),
        sa.Column("provider", sa.Text(), nullable=True),
        sa.Column("provider_message_id", sa.Text(), nullable=True),
        sa.Column("raw_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("channel IN ('email', 'sms')", name=op.f("ck_test_send_channel")),
        sa.CheckConstraint("variant IN ('standard', 'comment')", name=op.f("ck_test_send_variant")),
        sa.CheckConstraint(
            "state IN ('queued', 'sending', 'accepted', 'refused', 'unknown')", name=op.f("ck_test_send_state")
        ),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("fk_test_send_campaign_id")),
        sa.ForeignKeyConstraint(["doctor_id"], ["doctor.id"], name=op.f("fk_test_send_doctor_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_test_send")),
    )
    op.create_index("ix_test_send_doctor_id", "test_send", ["doctor_id", "asked_at"], unique=False)
    op.create_index(
        "ix_test_send_open",
        "test_send",
        ["id"],
        unique=False,
        postgresql_where=sa.text("state IN ('queued', 'sending')"),
    )
    _accounts()
    _roles()
    _row_level_security()
    _append_only()
    _changes()
    _hints_and_tally()


def _accounts() -> None:
    """Who signs in to the pages: for staff's transactions alone."""
    op.create_table(
        "account",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("doctor_id", sa.BigInteger(), nullable=True),
        sa.Column("email_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("email_blind", sa.LargeBinary(), nullable=False),
        sa.Column("language", sa.Text(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=True),
        sa.Column("totp_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("totp_step", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("oidc_issuer", sa.Text(), nullable=True),
        sa.Column("oidc_subject", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "role IN ('doctor', 'secretary', 'operator', 'approver', 'auditor')", name=op.f("ck_account_role")
        ),
        sa.CheckConstraint(
            "(role IN ('doctor', 'secretary')) = (doctor_id IS NOT NULL)", name=op.f("ck_account_belongs")
        ),
        sa.ForeignKeyConstraint(["doctor_id"], ["doctor.id"], name=op.f("fk_account_doctor_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_account")),
        sa.UniqueConstraint("email_blind", name=op.f("uq_account_email_blind")),
        sa.UniqueConstraint("oidc_issuer", "oidc_subject", name=op.f("uq_account_oidc_issuer_oidc_subject")),
    )
    op.create_table(
        "account_link",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("purpose IN ('invitation', 'sign_in')", name=op.f("ck_account_link_purpose")),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name=op.f("fk_account_link_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_account_link")),
        sa.UniqueConstraint("hash", name=op.f("uq_account_link_hash")),
    )
    op.create_index("ix_account_link_account_id", "account_link", ["account_id"], unique=False)
    op.create_table(
        "account_mail",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=True),
        sa.Column("email_blinds", sa.ARRAY(sa.LargeBinary()), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tries", sa.SmallInteger(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name=op.f("fk_account_mail_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_account_mail")),
    )
    op.create_index("ix_account_mail_due_at", "account_mail", ["due_at"], unique=False)
    op.create_table(
        "recovery_code",
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name=op.f("fk_recovery_code_account_id")),
        sa.PrimaryKeyConstraint("account_id", "hash", name=op.f("pk_recovery_code")),
    )
    op.create_table(
        "web_session",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("totp_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("failures", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("browser", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("stage IN ('invited', 'second_factor', 'full')", name=op.f("ck_web_session_stage")),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name=op.f("fk_web_session_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_web_session")),
        sa.UniqueConstraint("hash", name=op.f("uq_web_session_hash")),
    )
    op.create_index("ix_web_session_account_id", "web_session", ["account_id"], unique=False)
    op.create_table(
        "known_device",
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name=op.f("fk_known_device_account_id")),
        sa.PrimaryKeyConstraint("hash", "account_id", name=op.f("pk_known_device")),
    )
    op.create_table(
        "allowance",
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("remaining", sa.Float(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_allowance")),
    )


#: tables whose rows belong to one doctor by `doctor_id`
OWNED = (
    "campaign",
    "list_file",
    "list_problem",
    "patient",
    "contact",
    "patient_contact",
    "notice",
    "delivery",
    "delivery_patient",
    "attempt",
    "receipt",
    "test_send",
    "list_mapping",
    "list_upload",
    "decision",
    "told",
    "change",
    "callback",
)


def _roles() -> None:
    """Two roles nobody logs in as: `notifier_doctor` sees one doctor's rows, `notifier_staff` all of them.

    Neither owns a table, is a superuser or has BYPASSRLS. The login user takes one of them on for each
    transaction. Roles belong to the whole cluster, so they may be there already.
    """
    op.execute(
        """
        DO $$
        DECLARE
            name text;
        BEGIN
            FOREACH name IN ARRAY ARRAY['notifier_doctor', 'notifier_staff'] LOOP
                IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
                    EXECUTE format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOBYPASSRLS', name);
                END IF;
                -- From PostgreSQL 16 on, who creates a role may grant it, but not take it on by that alone.
                IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AND NOT pg_has_role(
                    current_user, name,
                    CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END
                ) THEN
                    EXECUTE format('GRANT %I TO %I', name, current_user);
                END IF;
                EXECUTE format('GRANT USAGE ON SCHEMA public TO %I', name);
            END LOOP;
        END $$
        """
    )
    op.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO notifier_staff")
    op.execute(
        "GRANT INSERT, UPDATE ON incident, doctor, api_key, idempotent_request, hold, heartbeat, due, tally, patient_tally, pace, bounce, "
        "breaker, "
        f"{', '.join(OWNED)} TO notifier_staff"
    )
    signing_in = "account, account_link, account_mail, recovery_code, web_session, known_device, allowance"
    op.execute(f"GRANT INSERT, UPDATE ON {signing_in} TO notifier_staff")
    op.execute("ALTER TABLE account ENABLE ROW LEVEL SECURITY")
    op.execute("CREATE POLICY everyone ON account TO notifier_staff USING (true)")
    # The account itself stays: the journal names it.
    op.execute(f"GRANT DELETE ON {signing_in.removeprefix('account, ')} TO notifier_staff")
    op.execute(
        "GRANT DELETE ON hold, heartbeat, due, tally, patient_tally, pace, breaker, idempotent_request "
        "TO notifier_staff"
    )
    op.execute(
        "GRANT SELECT ON doctor, incident, journal, hold, tally, patient_tally, bounce, "
        + ", ".join(OWNED)
        + " TO notifier_doctor"
    )
    op.execute(
        "GRANT INSERT ON list_file, list_problem, patient, contact, patient_contact, notice, delivery, "
        "delivery_patient, test_send, list_mapping, list_upload, decision, told, callback TO notifier_doctor"
    )
    op.execute(
        "GRANT UPDATE ON list_file, list_mapping, list_upload, decision, patient, contact, patient_contact, delivery "
        "TO notifier_doctor"
    )
    op.execute("GRANT UPDATE, DELETE ON callback TO notifier_doctor")
    op.execute("GRANT UPDATE ON told TO notifier_doctor")
    op.execute("GRANT DELETE ON callback, change TO notifier_staff")
    # A doctor's transaction can neither make a campaign nor erase its data key.
    op.execute(
        "GRANT UPDATE (state, epoch, plan, notice_hash, approved_at, approved_by, started_at, completed_at, reason) "
        "ON campaign TO notifier_doctor"
    )
    # A doctor who lets a campaign go on begins its count of bounces anew.
    op.execute("GRANT INSERT, UPDATE ON bounce TO notifier_doctor")
    # An import knows the ids of what it is about to insert.
    op.execute("GRANT USAGE ON SEQUENCE patient_id_seq, contact_id_seq TO notifier_staff, notifier_doctor")
    # A corrected list replaces a person's contacts while nothing has been sent.
    op.execute("GRANT DELETE ON patient_contact, told, list_upload TO notifier_staff, notifier_doctor")
    op.execute("GRANT INSERT ON journal TO notifier_staff, notifier_doctor")


def _row_level_security() -> None:
    """`notifier.doctor_id` is set for each transaction of `notifier_doctor`; unset, it sees nothing."""
    mine = "(SELECT nullif(current_setting('notifier.doctor_id', true), '')::bigint)"
    for table in (*OWNED, "doctor", "journal", "incident"):
        seen = f"doctor_id = {mine}"
        if table == "doctor":
            seen = f"id = {mine}"
        elif table == "incident":
            seen = "id IN (SELECT incident_id FROM campaign)"
        # A new row must belong to this doctor and point to nothing of another's: what it names has to be in sight.
        made = seen
        if table in ("list_file", "patient", "contact", "notice", "delivery", "test_send", "list_upload"):
            made += " AND campaign_id IN (SELECT id FROM campaign)"
        elif table in ("patient_contact", "delivery_patient", "decision", "told"):
            made += f" AND EXISTS (SELECT FROM patient WHERE patient.id = {table}.patient_id)"
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY one_doctor ON {table} TO notifier_doctor USING ({seen}) WITH CHECK ({made})")
        op.execute(f"CREATE POLICY everyone ON {table} TO notifier_staff USING (true)")


def _append_only() -> None:
    """The journal is chained by hash under a lock; neither it nor a frozen notice can be changed."""
    op.execute(
        """
        CREATE FUNCTION journal_chain() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
        SET search_path = public, pg_temp AS $$
        BEGIN
            PERFORM pg_advisory_xact_lock(7301);
            NEW.id := nextval(pg_get_serial_sequence('journal', 'id'));
            NEW.at := clock_timestamp();
            NEW.previous := (SELECT hash FROM journal ORDER BY id DESC LIMIT 1);
            NEW.hash := journal_hash(NEW);
            RETURN NEW;
        END $$
        """
    )
    op.execute(
        """
        CREATE FUNCTION journal_hash(entry journal) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
            SELECT sha256(convert_to(jsonb_build_array(
                entry.id, extract(epoch FROM entry.at), entry.actor, entry.action, entry.subject,
                entry.doctor_id, entry.detail, encode(entry.previous, 'hex')
            )::text, 'UTF8'))
        $$
        """
    )
    op.execute(
        """
        CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'rows of % cannot be changed', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
        END $$
        """
    )
    op.execute("CREATE TRIGGER chain BEFORE INSERT ON journal FOR EACH ROW EXECUTE FUNCTION journal_chain()")
    for table in ("journal", "notice"):
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        )
        op.execute(
            f"CREATE TRIGGER no_truncate BEFORE TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )


def _changes() -> None:
    """Programs that follow hear of every outcome and every campaign's state, whoever moved it.

    How many patients stand where is kept as differences, as `tally` is.
    """
    tally = """
            INSERT INTO patient_tally (campaign_id, language, variant, has_postal, outcome, reason, n, merged)
            SELECT campaign_id, language, variant, has_postal, outcome, outcome_reason, sum(n), sum(n * merged)
            FROM (
                SELECT campaign_id, language, variant, has_postal, outcome, outcome_reason, merged, 1 AS n
                FROM new_rows {before}
            ) moves
            GROUP BY 1, 2, 3, 4, 5, 6 HAVING sum(n) <> 0 OR sum(n * merged) <> 0;
    """
    before = """UNION ALL
                SELECT campaign_id, language, variant, has_postal, outcome, outcome_reason, merged, -1 FROM old_rows"""
    op.execute(
        f"""
        CREATE FUNCTION patient_changed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
        SET search_path = public, pg_temp AS $$
        BEGIN
            {tally.format(before=before)}
            INSERT INTO change (campaign_id, doctor_id, patients)
            SELECT campaign_id, doctor_id, array_agg(id ORDER BY id)
            FROM (
                SELECT *, (row_number() OVER (PARTITION BY campaign_id ORDER BY id) - 1) / 500 AS part
                FROM (
                    -- not a join: of these tables the planner knows nothing, and would loop over one for each
                    -- row of the other
                    SELECT id, campaign_id, doctor_id, outcome, outcome_reason FROM new_rows
                    EXCEPT
                    SELECT id, campaign_id, doctor_id, outcome, outcome_reason FROM old_rows
                ) changed
            ) moved
            GROUP BY campaign_id, doctor_id, part;
            RETURN NULL;
        END $$
        """  # noqa: S608 - put together from our own words
    )
    op.execute(
        "CREATE TRIGGER patient_changed AFTER UPDATE ON patient REFERENCING OLD TABLE AS old_rows "
        "NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION patient_changed()"
    )
    # Who is there before the start is in the listings that a follower reads then.
    op.execute(
        f"""
        CREATE FUNCTION patient_added() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
        SET search_path = public, pg_temp AS $$
        BEGIN
            {tally.format(before="")}
            INSERT INTO change (campaign_id, doctor_id, patients)
            SELECT campaign_id, doctor_id, array_agg(id ORDER BY id)
            FROM (
                SELECT n.id, n.campaign_id, n.doctor_id,
                       (row_number() OVER (PARTITION BY n.campaign_id ORDER BY n.id) - 1) / 500 AS part
                FROM new_rows n JOIN campaign c ON c.id = n.campaign_id WHERE c.started_at IS NOT NULL
            ) added
            GROUP BY campaign_id, doctor_id, part;
            RETURN NULL;
        END $$
        """  # noqa: S608 - put together from our own words
    )
    op.execute(
        "CREATE TRIGGER patient_added AFTER INSERT ON patient REFERENCING NEW TABLE AS new_rows "
        "FOR EACH STATEMENT EXECUTE FUNCTION patient_added()"
    )
    op.execute(
        """
        CREATE FUNCTION campaign_changed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
        SET search_path = public, pg_temp AS $$
        BEGIN
            INSERT INTO change (campaign_id, doctor_id, patients) VALUES (NEW.id, NEW.doctor_id, '{}');
            RETURN NULL;
        END $$
        """
    )
    op.execute(
        "CREATE TRIGGER campaign_changed AFTER UPDATE OF state ON campaign FOR EACH ROW "
        "WHEN (OLD.state <> NEW.state) EXECUTE FUNCTION campaign_changed()"
    )


def _hints_and_tally() -> None:
    """Every change of `delivery` leaves a hint of what it wants next in `due`, and its difference in `tally`.

    By statement triggers, so that no writer can forget it. Deliveries that want the same at about the same
    time share a hint: 50 to be sent, fewer or one alone if a worker died with them (`crashes`), 500 to settle.
    """
    for table in ("tally", "patient_tally", "bounce"):
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        seen = "campaign_id IN (SELECT id FROM campaign)"
        op.execute(f"CREATE POLICY one_doctor ON {table} TO notifier_doctor USING ({seen})")
        op.execute(f"CREATE POLICY everyone ON {table} TO notifier_staff USING (true)")
    hints = """
            INSERT INTO due (campaign_id, channel, kind, together, at, ids)
            SELECT campaign_id, channel, kind, company >= 50, max(due_at), array_agg(id ORDER BY id)
            FROM (
                SELECT *, (row_number() OVER (PARTITION BY campaign_id, channel, kind, company, slot ORDER BY id) - 1)
                          / company AS part
                FROM (
                    SELECT id, campaign_id, channel, due_at,
                           date_bin('250 milliseconds', due_at, 'epoch') AS slot,
                           CASE WHEN state = 'pending' THEN 'send' ELSE 'settle' END AS kind,
                           CASE WHEN state <> 'pending' THEN 500
                                WHEN crashes = 0 THEN 50
                                WHEN crashes = 1 THEN 10 ELSE 1 END AS company
                    FROM after WHERE state <> 'sending' AND due_at IS NOT NULL
                ) wanting
            ) grouped
            GROUP BY campaign_id, channel, kind, company, slot, part;
    """
    for event, before in (
        ("INSERT", ""),
        ("UPDATE", "UNION ALL SELECT campaign_id, channel, state, -1 FROM before"),
    ):
        name = f"delivery_{event.lower()}"
        op.execute(
            f"""
            CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
            SET search_path = public, pg_temp AS $$
            BEGIN
                {hints}
                INSERT INTO tally (campaign_id, channel, state, n)
                SELECT campaign_id, channel, state, sum(n)
                FROM (SELECT campaign_id, channel, state, 1 AS n FROM after {before}) moves
                GROUP BY campaign_id, channel, state HAVING sum(n) <> 0;
                RETURN NULL;
            END $$
            """  # noqa: S608 - put together from our own words
        )
        tables = "NEW TABLE AS after" + (" OLD TABLE AS before" if before else "")
        op.execute(
            f"CREATE TRIGGER {name} AFTER {event} ON delivery REFERENCING {tables} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {name}()"
        )
