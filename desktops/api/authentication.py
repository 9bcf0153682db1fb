"""Programs show an integration token, which opens what its scopes name and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.utils import timezone
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.permissions import BasePermission

from desktops.errors import Refused
from desktops.models import IntegrationToken
from desktops.services.integration_tokens import authenticate

if TYPE_CHECKING:
    from rest_framework.request import Request
    from rest_framework.views import APIView


@dataclass(frozen=True, slots=True)
class Program:
    """Who asks when a token is shown: signed in, but without any permission of an account."""

    token: IntegrationToken

    pk = None
    is_authenticated = True
    is_anonymous = False
    is_active = True

    def has_perm(self, perm: str, obj: Any = None) -> bool:
        return False

    def has_perms(self, perms: Sequence[str], obj: Any = None) -> bool:
        return False

    def get_username(self) -> str:
        """As actor and viewer; no account is called like this."""
        return f"token:{self.token.name}"


class IntegrationAuthentication(BaseAuthentication):
    """`Authorization: Bearer …`; a request without it is left to the next way of signing in."""

    def authenticate(self, request: Request) -> tuple[Program, IntegrationToken] | None:
        scheme, _, text = get_authorization_header(request).decode("latin-1").partition(" ")
        if scheme.lower() != "bearer":
            return None
        token = authenticate(text=text.strip(), wall=timezone.now())
        return Program(token), token

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


def may(scope: IntegrationToken.Scope) -> type[BasePermission]:
    """A permission class for tokens with `scope`."""

    class HasScope(BasePermission):
        def has_permission(self, request: Request, view: APIView) -> bool:
            token = request.auth
            if not isinstance(token, IntegrationToken):
                raise Refused(401, "no_token", "Send Authorization: Bearer and a token.")
            if scope not in token.scopes:
                raise Refused(403, "missing_scope", f"The token lacks the scope {scope}.")
            return True

    return HasScope


class IntegrationScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = IntegrationAuthentication
    name = "integrationToken"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer"}
