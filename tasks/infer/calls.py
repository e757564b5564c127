"""Calls of tools in the answers of a night: taken out of their texts, by the form of the run's model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.tokenizer import load_folder
from tasks.base.identity import canonical_json
from tasks.requests.tools import FORM
from tasks.tools.forms import FORMS, OWN
from tasks.tools.reading import read_calls

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedTokenizerBase

    from tasks.night.night import Night


class CallReader:
    """Reads calls; the tokenizer is loaded when the first answer needs it."""

    def __init__(self, night: Night) -> None:
        self._night = night
        self._tokenizer: PreTrainedTokenizerBase | None = None

    def put(
        self,
        answer: dict[str, Any],
        items: Sequence[Mapping[str, Any]],
        settings: Mapping[str, Any],
        name: str,
    ) -> None:
        """Take the calls out of an answer's text, in place; of one without tools nothing changes.

        Parameters
        ----------
        answer
            Columns of the table outputs.
        items
            Its choices as the engine sent them; a single one may stand for all.
        settings
            Of the request.
        name
            What ids of calls are made of.
        """
        form = settings.get(FORM)
        if form is None:
            return
        choices = answer["choices"] or [answer]
        found = []
        for index, choice in enumerate(choices):
            item = items[min(index, len(items) - 1)]
            text, calls = read_calls(
                self._whole(item, form), form, f"{name}-{index}", self._response_template(form)
            )
            found.append(calls or None)
            if calls:
                choice["text"] = text
        if any(found):
            answer["tool_calls_json"] = canonical_json(found)
            if answer["choices"] is not None:
                answer["text"] = choices[0]["text"]

    def _whole(self, item: Mapping[str, Any], form: str) -> str:
        """Return the text of an answer with what the text of answers is without: tokens that mark calls."""
        ids = item["token_ids"]
        if (form in FORMS and not FORMS[form].special) or not ids:
            return str(item["text"])
        tokenizer = self._loaded()
        ends = set(tokenizer.all_special_ids)
        while ids and ids[-1] in ends:
            ids = ids[:-1]
        return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _response_template(self, form: str) -> Mapping[str, Any] | None:
        return self._loaded().response_template if form == OWN else None

    def _loaded(self) -> PreTrainedTokenizerBase:
        if self._tokenizer is None:
            self._tokenizer = load_folder(self._night.model_dir)
        return self._tokenizer
