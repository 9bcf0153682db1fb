"""Filtering lists by columns that a view names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rest_framework import serializers
from rest_framework.filters import BaseFilterBackend

if TYPE_CHECKING:
    from django.db.models import QuerySet
    from rest_framework.request import Request
    from rest_framework.views import APIView

TEXT = serializers.CharField()
NUMBER = serializers.IntegerField()


def choice(choices: Any) -> serializers.ChoiceField:
    return serializers.ChoiceField(choices=choices)


class ByColumns(BaseFilterBackend):
    """`view.filters` maps a query parameter to its lookup and the field its value must pass."""

    def filter_queryset(self, request: Request, queryset: QuerySet, view: APIView) -> QuerySet:
        for name, (lookup, field) in self._filters(view).items():
            if name in request.query_params:
                queryset = queryset.filter(
                    **{lookup: self._value(name, field, request.query_params[name])}
                )
        return queryset

    def get_schema_operation_parameters(self, view: APIView) -> list[dict[str, Any]]:
        return [
            {"name": name, "in": "query", "required": False, "schema": self._schema(field)}
            for name, (_, field) in self._filters(view).items()
        ]

    def _filters(self, view: APIView) -> dict[str, tuple[str, serializers.Field]]:
        return getattr(view, "filters", {})

    def _value(self, name: str, field: serializers.Field, raw: str) -> Any:
        try:
            return field.run_validation(raw)
        except serializers.ValidationError as error:
            raise serializers.ValidationError({name: error.detail}) from None

    def _schema(self, field: serializers.Field) -> dict[str, Any]:
        if isinstance(field, serializers.ChoiceField):
            return {"type": "string", "enum": list(field.choices)}
        return {"type": "integer" if isinstance(field, serializers.IntegerField) else "string"}
