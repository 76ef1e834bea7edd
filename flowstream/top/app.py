"""The screen: keys, and a redraw twice a second, which reads what was added up meanwhile."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING, Any, ClassVar, Final

from textual.app import App
from textual.binding import Binding
from textual.content import Content
from textual.widgets import Footer, Input, Static

from flowstream.errors import UsageError
from flowstream.reading.where import Condition
from flowstream.top.drawing import COLUMNS, Choice, draw, help_lines, rows_that_fit
from flowstream.top.grouping import GROUPS, Host
from flowstream.top.model import MARKS
from flowstream.top.names import Names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from textual.app import ComposeResult

    from flowstream.top.drawing import Line
    from flowstream.top.model import Model, Snapshot, View
    from flowstream.top.pump import Pump
    from flowstream.top.settings import Settings

_REDRAW_S: Final = 0.5
_DIRECTIONS: Final = (None, 0, 1)
_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class TopApp(App[int]):
    """The live table. ``show`` runs it in the main thread."""

    CSS: ClassVar[str] = """
    #view { height: 1fr; width: 100%; }
    #filter { display: none; border: none; height: 1; padding: 0; }
    """
    TITLE = "flowstream top"
    AUTO_FOCUS = None
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[Any]] = [
        Binding("q", "quit_top", "quit"),
        Binding("ctrl+c", "quit_top", show=False, priority=True),
        Binding("ctrl+z", "suspend_process", show=False, priority=True),
        Binding("question_mark,h", "help", "help", key_display="?"),
        Binding("space,p", "pause", "pause", key_display="p"),
        Binding("s,greater_than_sign", "sort(1)", "sort", key_display="s"),
        Binding("less_than_sign", "sort(-1)", show=False),
        Binding("r", "reverse", "reverse"),
        Binding("g", "group", "group"),
        Binding("tab", "group", show=False, priority=True),
        *(Binding(str(n), f"group({n})", show=False) for n in range(1, len(GROUPS) + 1)),
        Binding("slash,f", "filter", "filter", key_display="/"),
        Binding("d", "direction", "direction"),
        Binding("n", "names", "names"),
        Binding("down", "scroll(1)", show=False),
        Binding("up", "scroll(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("home", "scroll(-1000000)", show=False),
        Binding("escape", "close", show=False),
    ]

    def __init__(self, pump: Pump, model: Model, source: str, settings: Settings) -> None:
        super().__init__()
        self._pump, self._model = pump, model
        self._choice = Choice(
            source, settings.group, condition=settings.condition, whole=settings.whole
        )
        self._where = settings.where
        self._mark_s = settings.seconds / MARKS
        self._marked = time.monotonic()
        self._snapshot: Snapshot | None = None
        self._names: Names | None = None
        self._helping = False
        self._message = ""
        self._number: int | None = None

    def show(self) -> int:
        """Show the screen until its end; return the exit status.

        Raises what ended the reading, once the terminal is as before.
        """
        self.run(mouse=False)
        self._pump.stop()
        self._pump.raise_error()
        if self._number is not None:
            return 128 + self._number
        return self.return_code or 0

    def compose(self) -> ComposeResult:
        """Make the widgets."""
        yield Static(id="view", markup=False)
        example = "condition, such as dst_port == 443; empty: all"
        yield Input(id="filter", placeholder=example, select_on_focus=False)
        yield Footer()

    def on_mount(self) -> None:
        """Begin to read and to draw."""
        for number in _SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._end_by, number)
        self._pump.start()
        self.set_interval(_REDRAW_S, self._look)

    def on_resize(self) -> None:
        """Draw for the new size."""
        self.call_after_refresh(self._look)

    def on_key(self) -> None:
        """Any key closes the help, and a message."""
        self._message = ""

    def action_quit_top(self) -> None:
        """End with status 0."""
        self.exit(0)

    def action_help(self) -> None:
        """Show the help, or the table again."""
        self._helping = not self._helping
        self._draw()

    def action_pause(self) -> None:
        """Keep the screen as it is, or let it go on."""
        self._change(paused=not self._choice.paused)

    def action_sort(self, step: int) -> None:
        """Sort by another column."""
        self._change(column=(self._choice.column + step) % len(COLUMNS), offset=0)

    def action_reverse(self) -> None:
        """Reverse the order."""
        self._change(reverse=not self._choice.reverse, offset=0)

    def action_group(self, number: int = 0) -> None:
        """Group by the next of ``GROUPS``, or by one of them."""
        names = list(GROUPS)
        place = number - 1 if number else (names.index(self._choice.group) + 1) % len(names)
        self._change(group=names[place], offset=0)

    def action_direction(self) -> None:
        """Choose both directions or one of them."""
        place = (_DIRECTIONS.index(self._choice.direction) + 1) % len(_DIRECTIONS)
        self._model.select(self._where, _DIRECTIONS[place])
        self._change(direction=_DIRECTIONS[place], offset=0)

    def action_names(self) -> None:
        """Show names for addresses, or addresses."""
        self._names = Names() if self._names is None else None
        self._draw()

    def action_scroll(self, rows: int) -> None:
        """Scroll by rows."""
        self._change(offset=max(self._choice.offset + rows, 0))

    def action_page(self, pages: int) -> None:
        """Scroll by screens."""
        self.action_scroll(pages * self._rows())

    def action_filter(self) -> None:
        """Let the user type a condition."""
        box = self.query_one("#filter", Input)
        box.value, box.display = self._choice.condition, True
        box.cursor_position = len(box.value)
        # At once: the next keys belong to it.
        self.screen.set_focus(box)

    def action_close(self) -> None:
        """Close the filter's line or the help."""
        self.query_one("#filter").display = False
        self.screen.set_focus(None)
        self._helping = False
        self._draw()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Filter by the condition, or say what is wrong with it."""
        text = event.value.strip()
        try:
            self._where = Condition(text) if text else None
        except UsageError as err:
            self._message = str(err)
        else:
            self._model.select(self._where, self._choice.direction)
            self._choice = self._choice._replace(condition=text, offset=0)
        self.action_close()
        self._look()

    def _change(self, **changes: Any) -> None:
        self._choice = self._choice._replace(**changes)
        self._helping = False
        self._look()

    def _end_by(self, number: signal.Signals) -> None:
        self._number = number
        self.exit(0)

    def _look(self) -> None:
        """Read the model, unless the screen is paused, and draw."""
        now = time.monotonic()
        if now - self._marked >= self._mark_s:
            self._marked = now
            self._model.mark()
        if self._pump.failed:
            self.exit(1)
        self._choice = self._choice._replace(ended=self._pump.ended.is_set())
        if self._snapshot is None or not self._choice.paused:
            self._pump.note()
            self._snapshot = self._model.snapshot()
        self._draw()

    def _rows(self) -> int:
        interfaces = len(self._snapshot.state.interfaces) if self._snapshot else 0
        return rows_that_fit(self.query_one("#view").size.height, interfaces)

    def _draw(self) -> None:
        widget = self.query_one("#view", Static)
        width, height = widget.size
        if self._snapshot is None or not width:
            return
        if self._helping:
            lines = help_lines(width, height)
        else:
            choice = self._choice
            rows = slice(choice.offset, choice.offset + self._rows())
            view = self._snapshot.view(choice.group, choice.order, rows)
            lines = draw(view, choice, self._known_names(view), width, height)
        if self._message:
            lines[1:2] = [[(self._message[:width], "bold red")]]
        widget.update(_content(lines))

    def _known_names(self, view: View) -> Mapping[str, str]:
        if self._names is None:
            return {}
        parts = (part for row in view.rows for part in GROUPS[self._choice.group].parts(row.key))
        hosts = (part for part in parts if isinstance(part, Host))
        return self._names.of(host.text for host in hosts if host.is_address)


def _content(lines: list[Line]) -> Content:
    return Content("\n").join(Content.assemble(*line) for line in lines)
