"""Parameters of a flow as a flat, ordered model, which is also the options of a command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from flows.parameters.spelling import meant
from tasks.base.errors import ConfigurationError, bounded

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from pydantic import ValidationInfo
    from pydantic_core import ErrorDetails


SLUG: Final = r"^[a-z0-9]+(-[a-z0-9]+)*$"


def _number(schema: dict[str, Any]) -> None:
    """Give each field its place: PostgreSQL keeps a schema without its order, and the UI goes by these."""
    for place, field in enumerate(schema.get("properties", {}).values()):
        field["position"] = place


class Form(BaseModel):
    """What people fill in; each field is an option of the command of the same name."""

    model_config = ConfigDict(
        extra="forbid", validate_default=True, protected_namespaces=(), json_schema_extra=_number
    )
    COMMAND: ClassVar[str] = "run"
    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {}
    """Field -> the values it may have."""
    GROUPS: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Heading -> fields that belong together; each field is under one of them, or there are no headings."""
    EARLIER_NAMES: ClassVar[Mapping[str, str]] = {}
    """Name that a field had in an earlier release, which deployments and scripts still give -> its name."""

    @model_validator(mode="before")
    @classmethod
    def _named_as_today(cls, values: Any) -> Any:  # noqa: ANN401 - whatever is given
        if not isinstance(values, dict):
            return values
        today = {cls.EARLIER_NAMES.get(name, name): value for name, value in values.items()}
        return today if len(today) == len(values) else values

    @field_validator("*")
    @classmethod
    def _one_of_choices(cls, value: Any, info: ValidationInfo) -> Any:  # noqa: ANN401 - of any field
        choices = cls.CHOICES.get(info.field_name or "")
        if choices is not None and value not in choices:
            raise ValueError(f"is unknown; it must be one of {', '.join(choices)}")
        return value

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Make parameters of options as they were typed.

        Raises
        ------
        ConfigurationError
            Naming the first option that is missing or wrong, in the order of the fields.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise _explain(cls, error.errors()) from None


def option(field: str) -> str:
    """Return the command-line option of a field."""
    return "--" + field.replace("_", "-")


def _explain(form: type[Form], errors: Sequence[ErrorDetails]) -> ConfigurationError:
    error = errors[0]
    name = str(error["loc"][0]) if error["loc"] else "parameters"
    field = form.model_fields.get(name)
    if field is None:
        like = meant(option(name), map(option, form.model_fields))
        remedy = f"{like.capitalize()} " if like else ""
        return ConfigurationError(
            option(name), "is not known", f"{remedy}See `nightblend {form.COMMAND} --help`"
        )
    example = field.examples[0] if field.examples else field.default
    if error["type"] == "missing":
        others = [option(str(e["loc"][0])) for e in errors[1:] if e["type"] == "missing"]
        more = f"; {', '.join(others)} {'is' if len(others) == 1 else 'are'} missing, too" if others else ""
        return ConfigurationError(option(name), "is missing", f"Give one, for example {example}{more}")
    message = f"{bounded(str(error['input']))!r} {_reason(error)}"
    return ConfigurationError(option(name), message, f"Give such a value, for example {example}")


def _reason(error: ErrorDetails) -> str:
    text = error["msg"].removeprefix("Value error, ")
    if error["type"] == "string_pattern_mismatch":
        text = "is not of the form that is needed"
        if error["ctx"]["pattern"] == SLUG:
            text = "should have only lower-case letters and digits, with single dashes between them"
    return text.replace("Input should", "should", 1).replace("String should", "should", 1)
