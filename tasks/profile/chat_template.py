"""A model's chat template: from messages to the text that the model continues, with nothing left out.

`transformers` renders it. What is added here: a clock in a template shows the run's date, and a template that
would leave out a message is found out before anything is answered without it. A last message of the assistant
is gone on with or followed by a new turn as the request says (`prefix`, see `tasks.requests.prompts`); if it
does not say, it is refused, since either can be meant and the answers differ.
"""

from __future__ import annotations

import json
from contextvars import ContextVar
from datetime import date, datetime, time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tasks.base.errors import ErrorCode, RequestError, bounded
from tasks.base.identity import canonical_json
from tasks.requests.images import KIND
from tasks.requests.prompts import without_turn
from tasks.requests.template_variables import BEGINS
from tasks.requests.tool_messages import CALL_ID, CALLS, for_template, text_of
from tasks.requests.tools import NO_PARAMETERS
from tasks.tools.forms import ToolForm, find_form

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CLOCK: Final = "strftime_now"
"""The one clock that `transformers` gives a chat template."""
_REMEMBERED: Final = 4096
_NOW: ContextVar[datetime] = ContextVar("now of a chat template")


class _How(NamedTuple):
    """How a chat is rendered.

    Attributes
    ----------
    goes_on, begins
        Whether the last message is gone on with; else whether a turn of the assistant begins.
    variables
        The template's own ones, as JSON.
    tools
        Definitions of tools, as JSON; empty: there are none.
    """

    goes_on: bool
    begins: bool
    variables: str
    tools: str = ""


class _Turn(NamedTuple):
    """What of a message decides whether a template shows it.

    Attributes
    ----------
    role
        Whose it is.
    named, blank
        Whether it has a name, and no text beside its calls.
    images
        How many images it has.
    calls, call
        Which calls it makes, and which it is the result of, by their order in the chat; -1: of none.
    """

    role: str
    named: bool
    blank: bool = False
    images: int = 0
    calls: tuple[int, ...] = ()
    call: int = -1


Pattern = tuple[_How, tuple[_Turn, ...]]
"""How it is rendered, and what of each message matters to that."""
_TOOLS: Final = -1
"""Among messages that are left out: the definitions of the tools."""
_TRIED_TOOL: Final = "qzjxtool"
_TRIED_TEXT: Final = "qzjxtextkv"


class ChatTemplate:
    """The chat template of a tokenizer.

    Parameters
    ----------
    tokenizer
        A `transformers` tokenizer.
    run_date : date or None
        The date whose beginning (00:00) a clock in the template shows; None is today's, for looks at prompts
        that belong to no date.
    sees : bool
        Whether the model takes images: its template may then show a text as a part alone, and gets it so.

    Attributes
    ----------
    problem : str or None
        Why no chat can be rendered at all; None if chats can.
    """

    def __init__(
        self,
        tokenizer: Any,  # noqa: ANN401 - no exact type
        run_date: date | None = None,
        *,
        sees: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        self._now = datetime.combine(run_date or date.today(), time())  # noqa: DTZ011 - as transformers has it
        self._left_out: dict[Pattern, tuple[int, ...]] = {}
        self._form: tuple[ToolForm | None] | None = None
        self._parts: bool | None = None if sees else False
        self.problem: str | None = None
        self._source = ""
        if not getattr(tokenizer, "chat_template", None):
            self.problem = "the tokenizer has no chat template"
            return
        try:
            self._source = tokenizer.get_chat_template()
        except ValueError as error:
            self.problem = f"the tokenizer has no chat template to take: {_first_line(error)}"

    @property
    def run_date(self) -> date:
        """The date that a clock in the template shows."""
        return self._now.date()

    @property
    def clock(self) -> str | None:
        """The time that the template's clock shows, in ISO form; None if the template has no clock."""
        if self.problem is not None or CLOCK not in self._source:
            return None
        return self._now.isoformat()

    @property
    def tool_form(self) -> ToolForm | None:
        """How the model writes calls of tools; None where nobody can tell."""
        if self._form is None:
            how = _How(goes_on=False, begins=False, variables="{}")

            def render(messages: list[dict[str, Any]]) -> str:
                try:
                    return self._render(messages, how)
                except RequestError as error:
                    raise ValueError(error.message) from None

            own = getattr(self._tokenizer, "response_template", None)
            self._form = (None if self.problem is not None else find_form(render, own),)
        return self._form[0]

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        variables: Mapping[str, Any] | None = None,
        tools: str | None = None,
    ) -> str:
        """Render a chat, as `tasks.requests.prompts` has it, into the text the model continues.

        `variables` are those of `tasks.requests.template_variables`, `tools` the setting of
        `tasks.requests.tools`.

        Raises
        ------
        RequestError
            `template_error`, if there is no template, or it refuses the messages, or leaves one or the tools
            out;
            `missing_parameter`, if the last message is the assistant's and has no `prefix`.
        """
        if self.problem is not None:
            raise _template_error("messages", self.problem)
        messages, goes_on = without_turn(messages)
        given = dict(variables or {})
        begins = given.pop(BEGINS, True)
        if goes_on is None and messages[-1]["role"] == "assistant" and begins:
            raise RequestError(
                ErrorCode.MISSING_PARAMETER,
                "continue_final_message",
                "the last message is the assistant's; say true to go on with it, false to begin a new turn",
            )
        how = _How(bool(goes_on), bool(begins), canonical_json(given), tools or "")
        for index in self._left_out_of(messages, how):
            if index == _TOOLS:
                raise _template_error("tools", "the chat template does not show the model its tools")
            message = messages[index]
            if message.get(CALLS) or text_of(message["content"]).strip():
                place = f"message {index + 1} of {len(messages)}, of role {message['role']}"
                raise _template_error(f"messages[{index}].role", f"the chat template leaves out {place}")
        return self._render(messages, how)

    def _left_out_of(self, messages: Sequence[Mapping[str, Any]], how: _How) -> tuple[int, ...]:
        """Return which messages the template would leave out without a word.

        Which ones it shows depends on the roles, their order and their number. So it is tried once for each
        such pattern, with texts that occur nowhere else. The real texts would not do: a template may change
        them for a reason (it trims them, takes reasoning out of earlier answers), and a short one is found
        anywhere.
        """
        pattern = how, _turns(messages)
        known = self._left_out.get(pattern)
        if known is None:
            known = self._try(pattern)
            if len(self._left_out) >= _REMEMBERED:
                self._left_out.clear()
            self._left_out[pattern] = known
        return known

    def _try(self, pattern: Pattern) -> tuple[int, ...]:
        how, turns = pattern
        marks = [_marks(index, turn) for index, turn in enumerate(turns)]
        messages = [_tried(index, turn) for index, turn in enumerate(turns)]
        if how.tools:
            function = {"name": _TRIED_TOOL, "description": "", "parameters": NO_PARAMETERS}
            how = how._replace(tools=json.dumps([{"type": "function", "function": function}]))
        try:
            shown = self._render(messages, how).casefold()
        except RequestError:
            # It refuses such messages with a word, which the real ones then get.
            return ()
        tools = (_TOOLS,) if how.tools and _TRIED_TOOL not in shown else ()
        left_out = (index for index, texts in enumerate(marks) if any(text not in shown for text in texts))
        return (*tools, *left_out)

    def _takes_parts(self) -> bool:
        """Tell whether the template shows a text only as a part, as those of some models that see do."""
        if self._parts is None:
            # While it is found out, texts go as they are.
            self._parts = False
            how = _How(goes_on=False, begins=True, variables="{}")
            shown = []
            for content in (_TRIED_TEXT, [{"type": "text", "text": _TRIED_TEXT}]):
                try:
                    shown.append(_TRIED_TEXT in self._render([{"role": "user", "content": content}], how))
                except RequestError:
                    shown.append(False)
            self._parts = shown == [False, True]
        return self._parts

    def _render(self, messages: Sequence[Mapping[str, Any]], how: _How) -> str:
        if self._takes_parts() or any(isinstance(message["content"], list) for message in messages):
            messages = [_in_parts(message) for message in messages]
        try:
            if self.clock is not None:
                _set_clock(self._source)
            shown = _NOW.set(self._now)
            try:
                text: str = self._tokenizer.apply_chat_template(
                    [for_template(message) for message in messages],
                    tools=json.loads(how.tools) if how.tools else None,
                    tokenize=False,
                    add_generation_prompt=how.begins and not how.goes_on,
                    continue_final_message=how.goes_on,
                    **json.loads(how.variables),
                )
            finally:
                _NOW.reset(shown)
        except Exception as error:  # noqa: BLE001 - a template is a program of the model's author
            reason = _first_line(error)
            if how.goes_on and isinstance(error, ValueError):
                # `transformers` puts the text itself into this error.
                reason = "it does not show the last message as it is, so no answer can go on with it"
            raise _template_error("messages", f"the chat template refuses these messages: {reason}") from None
        return text


def _in_parts(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message with its content as parts, as templates of models with eyes take it."""
    content = message["content"]
    if content is None or isinstance(content, str):
        parts = [{"type": "text", "text": content}] if content else []
    else:
        parts = [{"type": KIND} if part["type"] == KIND else part for part in content]
    return {**message, "content": parts}


def _images_in(content: object) -> int:
    return sum(part["type"] == KIND for part in content) if isinstance(content, list) else 0


def _turns(messages: Sequence[Mapping[str, Any]]) -> tuple[_Turn, ...]:
    ids: dict[str, int] = {}
    turns = []
    for message in messages:
        calls = message.get(CALLS) or ()
        made = tuple(ids.setdefault(call.get("id", f"{len(ids)}"), len(ids)) for call in calls)
        of = message.get(CALL_ID)
        turns.append(
            _Turn(
                message["role"],
                "name" in message,
                blank=bool(calls) and not text_of(message["content"]).strip(),
                images=_images_in(message["content"]),
                calls=made,
                call=-1 if of is None else ids.setdefault(of, len(ids)),
            )
        )
    return tuple(turns)


def _marks(index: int, turn: _Turn) -> list[str]:
    """Return the texts that have to be shown of a message that is tried."""
    calls = [f"qzjxcall{call}kv" for call in turn.calls]
    return calls if turn.blank else [f"qzjx{index}kv", *calls]


def _tried(index: int, turn: _Turn) -> dict[str, Any]:
    """Return a message that is tried; its ids have nine characters, as templates of Mistral's want them."""
    tried: dict[str, Any] = {"role": turn.role, "content": None if turn.blank else f"qzjx{index}kv"}
    if turn.images:
        tried["content"] = [*[{"type": KIND}] * turn.images, {"type": "text", "text": tried["content"]}]
    if turn.named:
        tried["name"] = "n"
    if turn.calls:
        tried[CALLS] = [
            {"id": f"id{call:07}", "function": {"name": f"qzjxcall{call}kv", "arguments": "{}"}}
            for call in turn.calls
        ]
    return tried if turn.call < 0 else {**tried, CALL_ID: f"id{turn.call:07}"}


def _set_clock(source: str) -> None:
    """Give a template, as `transformers` has compiled and keeps it, a clock that shows `_NOW`.

    There is no parameter for it: functions among the variables of a template are not passed on.
    """
    from transformers.utils import chat_template_utils

    compiled = chat_template_utils._compile_jinja_template(source)  # noqa: SLF001 - see above
    compiled.globals[CLOCK] = _strftime_now


def _strftime_now(form: str) -> str:
    # Outside of `ChatTemplate` the same compiled template shows the time it is, as ever.
    return _NOW.get(datetime.now()).strftime(form)  # noqa: DTZ005 - local, as transformers has it


def _first_line(error: Exception) -> str:
    return bounded(str(error).partition("\n")[0])


def _template_error(field_name: str, message: str) -> RequestError:
    return RequestError(ErrorCode.TEMPLATE_ERROR, field_name, message)
