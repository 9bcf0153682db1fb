"""What agents in desktops ask for, and what operators ask of agents (docs/sources/agent.md)."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.contrib.auth.models import AnonymousUser
from django.shortcuts import get_object_or_404
from django.utils import timezone
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.permissions import BasePermission
from rest_framework.response import Response
from rest_framework.views import APIView

from desktops import selectors
from desktops.api.bodies import read_json
from desktops.api.errors import AnswersPrograms
from desktops.api.permissions import holds
from desktops.errors import Refused
from desktops.models import AgentCommand, AgentCredential
from desktops.services import agents, batches

if TYPE_CHECKING:
    from rest_framework.request import Request

MOST_BATCH_BYTES = 1 << 20
MOST_BYTES = 1 << 14
SERVER_HEADER = "Foredesk-Server"


class AgentAuthentication(BaseAuthentication):
    """`Authorization: Bearer` and a desktop's own token. Its holder is nobody with an account."""

    def authenticate(self, request: Request) -> tuple[AnonymousUser, AgentCredential] | None:
        scheme, _, text = get_authorization_header(request).decode("latin-1").partition(" ")
        if scheme.lower() != "bearer":
            return None
        return AnonymousUser(), agents.authenticate(text=text.strip())

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class IsAgent(BasePermission):
    def has_permission(self, request: Request, view: APIView) -> bool:
        if not isinstance(request.auth, AgentCredential):
            raise Refused(401, "no_token", "Send Authorization: Bearer and the agent's token.")
        return True


class AgentScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = AgentAuthentication
    name = "agentToken"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer"}


class AgentView(AnswersPrograms, APIView):
    authentication_classes = (AgentAuthentication,)
    permission_classes = (IsAgent,)


class CommandsOfAgentView(AgentView):
    """Commands concern the server that the desktop is on now; the agent says which one it is on."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        agents.check_server(request.auth, server_id=request.headers.get(SERVER_HEADER, ""))


class EnrolmentSerializer(serializers.Serializer):
    token = serializers.CharField(max_length=200)
    server_id = serializers.CharField(max_length=64)
    agent = serializers.CharField(max_length=20, help_text="Version of the agent.")


class EnrolledSerializer(serializers.Serializer):
    token = serializers.CharField()
    command_key = serializers.CharField(help_text="Hexadecimal; verifies commands.")
    desktop = serializers.CharField()
    poll_s = serializers.IntegerField()
    post_s = serializers.IntegerField()


class OutcomeSerializer(serializers.Serializer):
    outcome = serializers.ChoiceField((AgentCommand.Outcome.DONE, AgentCommand.Outcome.FAILED))
    detail = serializers.CharField(max_length=300, allow_blank=True, default="")


class SignedCommandSerializer(serializers.Serializer):
    id = serializers.IntegerField()
    kind = serializers.CharField()
    arguments = serializers.DictField()
    server_id = serializers.CharField()
    expires_at = serializers.IntegerField(help_text="Unix seconds.")
    signature = serializers.CharField()


class SignedCommandsSerializer(serializers.Serializer):
    commands = SignedCommandSerializer(many=True)


class BatchReceiptSerializer(serializers.Serializer):
    batch_id = serializers.UUIDField()
    accepted = serializers.BooleanField()
    duplicate = serializers.BooleanField(required=False)


class CommandRequestSerializer(serializers.Serializer):
    kind = serializers.ChoiceField(AgentCommand.Kind.choices)
    arguments = serializers.DictField(child=serializers.CharField(), default=dict)
    ttl_s = serializers.IntegerField(min_value=1, max_value=86_400, default=600)


class CommandSerializer(serializers.ModelSerializer):
    outcome = serializers.SerializerMethodField()

    class Meta:
        model = AgentCommand
        fields = (
            "id",
            "kind",
            "arguments",
            "created_at",
            "created_by",
            "expires_at",
            "delivered_at",
            "finished_at",
            "outcome",
            "detail",
        )

    def get_outcome(self, command: AgentCommand) -> str:
        """A command that nobody came for has expired, whether that was noted or not."""
        is_waiting = command.outcome == AgentCommand.Outcome.WAITING
        if is_waiting and command.expires_at <= timezone.now():
            return AgentCommand.Outcome.EXPIRED
        return command.outcome


class EnrolView(AnswersPrograms, APIView):
    """Turn one use of an enrolment token into a desktop's own token."""

    authentication_classes = ()
    permission_classes = ()

    @extend_schema(
        operation_id="agent_enrol",
        request=EnrolmentSerializer,
        responses={201: EnrolledSerializer},
        auth=[],
    )
    def post(self, request: Request) -> Response:
        given = _given(EnrolmentSerializer, request)
        enrolled = agents.enrol(
            token=given["token"],
            server_id=given["server_id"],
            version=given["agent"],
            wall=timezone.now(),
        )
        answer = {**asdict(enrolled), "poll_s": agents.POLL_S, "post_s": agents.POST_S}
        return Response(
            answer, status=status.HTTP_201_CREATED, headers={"Cache-Control": "no-store"}
        )


class BatchesView(AgentView):
    """Deliver one batch of activity; delivering it again changes nothing."""

    @extend_schema(
        operation_id="agent_batch",
        request={"application/json": OpenApiTypes.OBJECT},
        responses={202: BatchReceiptSerializer, 200: BatchReceiptSerializer},
    )
    def post(self, request: Request) -> Response:
        accepted = batches.accept(
            credential=request.auth,
            body=_body(request),
            content_encoding=request.META.get("HTTP_CONTENT_ENCODING", ""),
            wall=timezone.now(),
        )
        answer: dict[str, Any] = {"batch_id": str(accepted.batch_id), "accepted": True}
        if accepted.is_duplicate:
            return Response({**answer, "duplicate": True})
        return Response(answer, status=status.HTTP_202_ACCEPTED)


class AgentCommandsView(CommandsOfAgentView):
    """What this desktop's agent is to do; the header Foredesk-Server names the server it is on."""

    @extend_schema(operation_id="agent_commands", responses=SignedCommandsSerializer)
    def get(self, request: Request) -> Response:
        commands = agents.deliver_commands(credential=request.auth, wall=timezone.now())
        return Response({"commands": commands})


class AgentCommandView(CommandsOfAgentView):
    """Say what became of a command."""

    @extend_schema(
        operation_id="agent_command_outcome", request=OutcomeSerializer, responses={204: None}
    )
    def post(self, request: Request, pk: int) -> Response:
        given = _given(OutcomeSerializer, request)
        agents.finish_command(
            credential=request.auth,
            command_id=pk,
            outcome=AgentCommand.Outcome(given["outcome"]),
            detail=given["detail"],
            at=timezone.now(),
        )
        return Response(status=status.HTTP_204_NO_CONTENT)


class DesktopCommandsView(AnswersPrograms, APIView):
    """What operators asked of a desktop's agent (the newest hundred), and asking for more."""

    permission_classes = (holds(agents.OPERATE),)

    @extend_schema(operation_id="desktop_commands", responses=CommandSerializer(many=True))
    def get(self, request: Request, pk: int) -> Response:
        desktop = get_object_or_404(selectors.desktops_for(request.user), pk=pk)
        newest = desktop.commands.order_by("-pk")[:100]
        return Response(CommandSerializer(newest, many=True).data)

    @extend_schema(
        operation_id="desktop_command",
        request=CommandRequestSerializer,
        responses={201: CommandSerializer},
    )
    def post(self, request: Request, pk: int) -> Response:
        asked = CommandRequestSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        command = agents.command_desktop(
            desktop=get_object_or_404(selectors.desktops_for(request.user), pk=pk),
            kind=AgentCommand.Kind(asked.validated_data["kind"]),
            arguments=asked.validated_data["arguments"],
            actor=request.user,
            at=timezone.now(),
            ttl=timedelta(seconds=asked.validated_data["ttl_s"]),
        )
        return Response(CommandSerializer(command).data, status=status.HTTP_201_CREATED)


def _given(serializer: type[serializers.Serializer], request: Request) -> dict[str, Any]:
    given = serializer(data=read_json(request, most_bytes=MOST_BYTES))
    given.is_valid(raise_exception=True)
    return given.validated_data


def _body(request: Request) -> bytes:
    """The body as sent; what announces too much, or says nothing and is too much, is not read."""
    announced = request.META.get("CONTENT_LENGTH") or "0"
    too_large = Refused(413, "too_large", f"A batch has at most {MOST_BATCH_BYTES:,} bytes.")
    if not announced.isdecimal() or int(announced) > MOST_BATCH_BYTES:
        raise too_large
    body: bytes = request._request.read(MOST_BATCH_BYTES + 1)
    if len(body) > MOST_BATCH_BYTES:
        raise too_large
    return body
