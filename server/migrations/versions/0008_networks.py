"""VPCs and what is in them; elastic IPs; what instances have of a network."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"

MOMENT = postgresql.TIMESTAMP(timezone=True)
NOW = sa.text("clock_timestamp()")


def owned(name: str, *columns: sa.schema.SchemaItem) -> None:
    """A table of rows that tenants own."""
    op.create_table(
        name,
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("tenant_id", sa.Uuid, sa.ForeignKey("tenants.id"), nullable=False),
        *columns,
        sa.Column("created_at", MOMENT, nullable=False, server_default=NOW),
    )
    op.create_index(f"{name}_page", name, ["tenant_id", sa.text("created_at desc"), sa.text("id desc")])


def text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=nullable)


def refers(name: str, table: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.Uuid, sa.ForeignKey(f"{table}.id"), nullable=nullable, index=True)


def upgrade() -> None:
    owned(
        "vpcs", refers("user_id", "users"), sa.Column("host", sa.Text, sa.ForeignKey("hosts.name")),
        text("name"), text("cidr_block"), sa.Column("automatic", sa.Boolean, nullable=False),
        text("desired"), sa.Column("generation", sa.BigInteger, nullable=False),
        text("status"), text("status_message", nullable=True),
        sa.Column("observed_generation", sa.BigInteger, nullable=False),
        sa.Column("updated_at", MOMENT, nullable=False, server_default=NOW),
    )  # fmt: skip
    op.create_index(
        "vpcs_name", "vpcs", ["tenant_id", "name"], unique=True, postgresql_where=sa.text("desired <> 'DELETED'")
    )
    owned(
        "route_tables", refers("vpc_id", "vpcs"), text("name"), sa.Column("is_main", sa.Boolean, nullable=False),
        sa.UniqueConstraint("vpc_id", "name", name="route_tables_name"),
    )  # fmt: skip
    op.create_index("route_tables_main", "route_tables", ["vpc_id"], unique=True, postgresql_where=sa.text("is_main"))
    owned(
        "routes", refers("route_table_id", "route_tables"), text("destination_cidr"), text("target_type"),
        sa.Column("target_id", sa.Uuid, index=True), text("origin"),
        sa.UniqueConstraint("route_table_id", "destination_cidr", name="routes_destination"),
        sa.CheckConstraint("(target_type = 'local') = (target_id is null)", name="routes_target"),
    )  # fmt: skip
    owned(
        "subnets", refers("user_id", "users"), refers("vpc_id", "vpcs"), text("name"), text("cidr_block"),
        text("availability_zone"), text("gateway_ip"), refers("route_table_id", "route_tables", nullable=True),
        sa.Column("associated_at", MOMENT),
        sa.UniqueConstraint("vpc_id", "name", name="subnets_name"),
    )  # fmt: skip
    owned("internet_gateways", refers("user_id", "users"), refers("vpc_id", "vpcs", nullable=True), text("status"),
          sa.UniqueConstraint("vpc_id", name="internet_gateways_one_of_a_vpc"))  # fmt: skip
    owned("nat_gateways", refers("user_id", "users"), refers("vpc_id", "vpcs"), refers("subnet_id", "subnets"),
          sa.Column("elastic_ip_id", sa.Uuid, nullable=False), text("private_ip"), text("status"),
          sa.UniqueConstraint("subnet_id", name="nat_gateways_one_of_a_subnet"))  # fmt: skip
    owned(
        "security_groups", refers("user_id", "users"), refers("vpc_id", "vpcs"), text("name"), text("description"),
        sa.UniqueConstraint("vpc_id", "name", name="security_groups_name"),
    )  # fmt: skip
    owned(
        "security_rules", refers("group_id", "security_groups"), text("direction"), text("protocol"),
        sa.Column("port_min", sa.BigInteger), sa.Column("port_max", sa.BigInteger), text("cidr", nullable=True),
        refers("referenced_group_id", "security_groups", nullable=True),
        sa.Column("priority", sa.BigInteger, nullable=False),
        sa.CheckConstraint("(cidr is null) <> (referenced_group_id is null)", name="security_rules_far_end"),
        sa.CheckConstraint("1 <= port_min and port_min <= port_max and port_max <= 65535", name="security_rules_ports"),
    )  # fmt: skip
    owned(
        "elastic_ips", refers("user_id", "users"), text("public_ip"), text("status"),
        sa.Column("instance_id", sa.Uuid, sa.ForeignKey("instances.id"), unique=True),
        sa.Column("nat_gateway_id", sa.Uuid, sa.ForeignKey("nat_gateways.id"), unique=True),
        refers("vpc_id", "vpcs", nullable=True),
        sa.Column("updated_at", MOMENT, nullable=False, server_default=NOW),
        sa.UniqueConstraint("public_ip", name="elastic_ips_public_ip"),
        sa.CheckConstraint("(status = 'associated') = (num_nonnulls(instance_id, nat_gateway_id) = 1)",
                           name="elastic_ips_status"),
    )  # fmt: skip
    owned(
        "vpc_peerings",
        refers("requester_vpc_id", "vpcs"),
        refers("accepter_vpc_id", "vpcs"),
        text("status"),
        sa.Column("updated_at", MOMENT, nullable=False, server_default=NOW),
    )
    op.create_index(
        "vpc_peerings_pair", "vpc_peerings",
        [sa.text("least(requester_vpc_id, accepter_vpc_id)"), sa.text("greatest(requester_vpc_id, accepter_vpc_id)")],
        unique=True, postgresql_where=sa.text("status in ('pending-acceptance', 'active')"),
    )  # fmt: skip
    op.create_table(
        "public_addresses",
        sa.Column("address", sa.BigInteger, primary_key=True),
        sa.Column("elastic_ip_id", sa.Uuid),
        sa.Column("freed_at", MOMENT),
        sa.ForeignKeyConstraint(
            ["elastic_ip_id"], ["elastic_ips.id"], name="public_addresses_elastic_ip",
            deferrable=True, initially="DEFERRED",
        ),
    )  # fmt: skip
    op.create_index("public_addresses_free", "public_addresses", ["freed_at", "address"],
                    postgresql_where=sa.text("elastic_ip_id is null"))  # fmt: skip
    op.create_index("public_addresses_elastic_ip", "public_addresses", ["elastic_ip_id"])
    op.create_table(
        "subnet_addresses",
        sa.Column("subnet_id", sa.Uuid, sa.ForeignKey("subnets.id"), primary_key=True),
        sa.Column("address", sa.BigInteger, primary_key=True),
        sa.Column("instance_id", sa.Uuid, unique=True),
        sa.Column("nat_gateway_id", sa.Uuid, unique=True),
        *(
            sa.ForeignKeyConstraint([f"{kind}_id"], [f"{kind}s.id"], name=f"subnet_addresses_{kind}",
                                    ondelete="CASCADE", deferrable=True, initially="DEFERRED")
            for kind in ("instance", "nat_gateway")
        ),
        sa.CheckConstraint("num_nonnulls(instance_id, nat_gateway_id) = 1", name="subnet_addresses_whose"),
    )  # fmt: skip
    op.create_foreign_key("instances_vpc", "instances", "vpcs", ["vpc_id"], ["id"])
    op.create_foreign_key("instances_subnet", "instances", "subnets", ["subnet_id"], ["id"])
    op.create_index("instances_vpc", "instances", ["vpc_id"])
    op.add_column(
        "instances", sa.Column("security_groups", postgresql.ARRAY(sa.Text), nullable=False, server_default="{}")
    )
    op.add_column("instances", sa.Column("netns", sa.Text))
    op.execute(
        "insert into prices values "
        "('elastic_ip', 'elastic_ip', timestamptz '1970-01-01 00:00:00+00', 0.005), "
        "('nat_gateway', 'nat_gateway', timestamptz '1970-01-01 00:00:00+00', 0.045)"
    )
