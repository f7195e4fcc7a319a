"""The daemon's state machine, as a table (contract 2.6; `service/src/daemon.rs`).

All transitions live here. The machine decides; who fires an event carries the action out.
"""

from enum import Enum, IntEnum

from nydus_app.errors import StateConflict


class State(IntEnum):
    """The integers are nydusd's."""

    INIT = 1
    RUNNING = 2
    READY = 3
    STOPPED = 4


class Event(Enum):
    MOUNT = "Mount"
    TAKEOVER = "Takeover"
    START = "Start"
    STOP = "Stop"
    EXIT = "Exit"


class Action(Enum):
    NONE = "nothing"
    RESTORE = "take a session over"
    START_SERVICE = "answer requests"
    END_SERVICE = "stop answering"
    UNMOUNT = "unmount"
    LEAVE = "end without unmounting"


TRANSITIONS: dict[tuple[State, Event], tuple[State, Action]] = {
    (State.INIT, Event.MOUNT): (State.READY, Action.NONE),
    (State.INIT, Event.TAKEOVER): (State.READY, Action.RESTORE),
    (State.INIT, Event.STOP): (State.STOPPED, Action.LEAVE),
    (State.READY, Event.START): (State.RUNNING, Action.START_SERVICE),
    (State.READY, Event.STOP): (State.STOPPED, Action.UNMOUNT),
    (State.READY, Event.EXIT): (State.STOPPED, Action.LEAVE),
    (State.RUNNING, Event.STOP): (State.READY, Action.END_SERVICE),
}


class StateMachine:
    def __init__(self) -> None:
        self.state = State.INIT

    def fire(self, event: Event) -> Action:
        """Go where the table says. Raises StateConflict, and stays, where it says nothing."""
        try:
            self.state, action = TRANSITIONS[self.state, event]
        except KeyError:
            raise StateConflict(f"{event.value} is not possible while {self.state.name}") from None
        return action
