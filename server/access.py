"""May they: what each role of a tenant allows.

A permission is "<area>:<verb>". Owners and admins may do everything in their tenant; developers
and members everything but what governs the tenant itself; viewers may read.
"""

from functools import cache

ROLES = ("owner", "admin", "developer", "member", "viewer")
GOVERNING = ("tenant", "identity", "iam", "rbac", "service_account", "quota", "accounting", "audit")


@cache
def allows(role: str, permission: str) -> bool:
    """Whether the role, by itself, has the permission. An unknown role has none."""
    area, _, verb = permission.partition(":")
    if role in ("owner", "admin"):
        return True
    if role in ("developer", "member"):
        return area not in GOVERNING or verb == "read"
    return role == "viewer" and verb == "read"


def may_grant(own: str, role: str) -> bool:
    """Whether somebody of the role `own` may give `role` to others: nobody hands out more than they have."""
    return own in ("owner", "admin") or role not in ("owner", "admin")
