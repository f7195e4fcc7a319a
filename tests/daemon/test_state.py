"""The state machine, from its own table."""

import pytest

from nydus_app.daemon.state import TRANSITIONS, Action, Event, State, StateMachine
from nydus_app.errors import StateConflict


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_what_the_table_does_not_name_is_refused_and_changes_nothing(state: State, event: Event) -> None:
    machine = StateMachine()
    machine.state = state
    if (state, event) in TRANSITIONS:
        after, action = TRANSITIONS[state, event]
        assert machine.fire(event) is action
        assert machine.state is after
    else:
        with pytest.raises(StateConflict, match=event.value):
            machine.fire(event)
        assert machine.state is state


def test_a_normal_life() -> None:
    machine = StateMachine()
    actions = [machine.fire(e) for e in (Event.MOUNT, Event.START, Event.STOP, Event.STOP)]
    assert actions == [Action.NONE, Action.START_SERVICE, Action.END_SERVICE, Action.UNMOUNT]
    assert machine.state is State.STOPPED
