"""How every command reads its options: those of a form are its fields, in groups.

This is argparse, as thin as can be. Libraries that make a command line of pydantic models start slower: of
CPU time `nightblend run --help` takes 0.45 s, two thirds of them for pydantic itself, and with the same form
0.95 s through cyclopts 5.4 and 0.66 s through pydantic-settings 2.16. Both tell an error of a form in many
lines; cyclopts also makes positional arguments of required fields and refuses an option that is given twice.
What they have beyond argparse (suggestions, `--version`, lazy commands) are the few lines here and in
`flows.cli`.
"""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any, Final, NoReturn

from flows.parameters.spelling import meant
from tasks.base.accounting import ExitCode

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from pydantic.fields import FieldInfo

    from flows.parameters.form import Form

PROGRAM: Final = "nightblend"
_METAVAR: Final = {
    "model_filter": "PATTERN",
    "image_source": "PLACE",
    "columns": "FIELD=COLUMN",
    "engine_option": "KEY=VALUE",
    "engine_python": "PATH",
    "hours": "HH:MM-HH:MM",
    "currency": "CODE",
    "device_profile": "FILE",
    "out": "FILE",
    "compute_on": "compute/NAME",
    "deployment": "FLOW/NAME",
    "select": "WHICH",
    "promise": "TENANT=PROMISE",
}
_BY_TYPE: Final = {"int": "N", "float": "NUMBER", "date": "DATE"}
_NUMBER: Final = re.compile(r"^-\d+$|^-\d*\.\d+$")
_REQUIRED: Final = "the following arguments are required: "


class _Formatter(argparse.HelpFormatter):
    """Has room for long options."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)


class CommandParser(argparse.ArgumentParser):
    """The options of a command; says in one line what is wrong, and what may have been meant.

    Parameters
    ----------
    name
        Of the command.
    description, epilog
        Above and below its options.
    """

    def __init__(self, name: str, description: str, epilog: str | None = None) -> None:
        super().__init__(
            prog=f"{PROGRAM} {name}",
            description=description,
            epilog=epilog,
            add_help=False,
            allow_abbrev=False,
            formatter_class=_Formatter,
        )
        self._optionals.title, self._positionals.title = "Options", "Arguments"
        self._needed: list[str] = []
        self._own_groups = False

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:  # noqa: ANN401 - of argparse
        """Add an option as argparse does; its text becomes a sentence, its value is named by its type."""
        text, kind = settings["help"], settings.get("type")
        settings["help"] = text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
        if kind in _BY_PARSER:
            settings.setdefault("metavar", _BY_PARSER[kind])
        return super().add_argument(*names, **settings)

    def add_form(
        self,
        form: type[Form],
        *,
        without: Collection[str] = (),
        within: str = "",
        required: str = "Required.",
        no_default: Collection[str] = (),
    ) -> None:
        """Add an option for each field of a form, under its headings; what is not typed is left out.

        A list is an option that may be repeated, a yes or no has its `--no-` counterpart.

        Parameters
        ----------
        without
            Fields that are left out.
        within
            Stands before the headings.
        required
            Said of fields without a default.
        no_default
            Fields whose default holds for the form alone: the command does something else without them.
        """
        self._own_groups = True
        for heading, names in form.GROUPS.items():
            fields = {name: form.model_fields[name] for name in names if name not in without}
            if fields:
                group = self.add_argument_group(f"{within}{heading}")
                for name, field in fields.items():
                    _add_field(group, name, field, required, shows_default=name not in no_default)
                    for earlier in (old for old, today in form.EARLIER_NAMES.items() if today == name):
                        group.add_argument(
                            _typed(earlier), dest=name, default=argparse.SUPPRESS, help=argparse.SUPPRESS
                        )
                    if field.is_required() and not within:
                        self._needed += [_typed(name), _metavar(name, field)]

    def add_flow_option(self, default: str) -> None:
        """Add `--as-flow`; `default` says when it is on."""
        known = [group for group in self._action_groups if group.title == "Prefect"]
        group = known[0] if known else self.add_argument_group("Prefect")
        group.add_argument(
            "--as-flow",
            action=argparse.BooleanOptionalAction,
            default=None,
            help=f"Run as a flow of Prefect, with its states, logs and artifacts. Default: {default}.",
        )

    def parse(self, typed: Sequence[str]) -> dict[str, Any]:
        """Return the options by name; the process ends if one of them is not known, or one is missing."""
        for option in _options_of(typed):
            if option not in self._option_string_actions:
                like = meant(option, self._option_string_actions)
                self.error(f"{option} is not known" + (f"; {like}" if like else ""))
        found, rest = self.parse_known_args(typed)
        if rest:
            self.error(f"{rest[0]!r} belongs to no option")
        return vars(found)

    def finish(self) -> CommandParser:
        """Add what every command has: `--json`, `--help` and a line of usage that can be read."""
        group = self.add_argument_group("Output") if self._own_groups else self
        group.add_argument("--json", action="store_true", help="Print one JSON object on stdout.")
        group.add_argument("-h", "--help", action="help", help="Show this and exit.")
        needed = list(self._needed)
        for action in self._actions:
            metavar = str(action.metavar or action.dest.upper())
            if not action.option_strings:
                needed.append(metavar)
            elif action.required:
                needed += [action.option_strings[0], metavar]
        self.usage = " ".join([self.prog, *needed, "[OPTIONS]"])
        return self

    def error(self, message: str) -> NoReturn:
        """End the process with a line on stderr."""
        if message.startswith(_REQUIRED):
            names = message.removeprefix(_REQUIRED)
            message = f"{names} {'are' if ',' in names else 'is'} missing"
        message = message.removeprefix("argument ").replace(": expected one argument", " needs a value")
        end = "" if message.endswith("?") else "."
        self.exit(ExitCode.USAGE, f"{self.prog}: {message}{end} See `{self.prog} --help`.\n")


def whole(text: str) -> int:
    """Return a whole number that was typed."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None


def number(text: str) -> float:
    """Return a number that was typed."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None


_BY_PARSER: Final = {whole: "N", number: "NUMBER"}


def _options_of(typed: Sequence[str]) -> list[str]:
    """Return the names of the options among the words that were typed, as argparse tells them apart."""
    end = typed.index("--") if "--" in typed else len(typed)
    return [
        word.partition("=")[0]
        for word in typed[:end]
        if word.startswith("-") and word != "-" and " " not in word and not _NUMBER.match(word)
    ]


def _add_field(
    group: argparse._ActionsContainer, name: str, field: FieldInfo, required: str, *, shows_default: bool
) -> None:
    text = (field.description or "").replace("%", "%%")
    if isinstance(field.default, bool):
        text += f" Default: {'on' if field.default else 'off'}."
        group.add_argument(
            _typed(name), action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text
        )
        return
    if field.is_required():
        text += f" {required}"
    elif field.default_factory is not None:
        text += " May be repeated."
    elif shows_default and field.default is not None and field.default != "":
        default = f"{field.default:g}" if isinstance(field.default, float) else field.default
        text += f" Default: {default}."
    group.add_argument(
        _typed(name),
        action="store" if field.default_factory is None else "append",
        metavar=_metavar(name, field),
        default=argparse.SUPPRESS,
        help=text,
    )


def _metavar(name: str, field: FieldInfo) -> str:
    kind = str(getattr(field.annotation, "__name__", field.annotation)).partition(" ")[0].rpartition(".")[2]
    return _METAVAR.get(name) or _BY_TYPE.get(kind) or name.rpartition("_")[2].upper()


def _typed(name: str) -> str:
    return "--" + name.replace("_", "-")
