"""Does an environment that a program registered exist where its workers are?"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial

import gymnasium
import pytest
from ray import cloudpickle

from shoal.config.config import Rollout
from shoal.errors import ConfigError
from shoal.fleet.create import create_fleet, worker
from shoal.systems.table import default_config
from tests.worlds import Script


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    for name in ("Own/Script-v0", "Own/Script-v3"):
        gymnasium.registry.pop(name, None)


@pytest.mark.parametrize("name", ["Own/Script-v3", "Own/Script"])
def test_an_entry_travels_with_its_arguments_and_time_limit(name: str) -> None:
    """To another process, for which this one stands once it has forgotten the environment."""
    from shoal.envs.registry import entries

    gymnasium.register("Own/Script-v3", Script, max_episode_steps=5, kwargs={"length": 50})
    config = default_config("a2c", name)
    make = cloudpickle.dumps(partial(worker, entries(name), config, name))
    del gymnasium.registry["Own/Script-v3"]
    member = cloudpickle.loads(make)(0, 0)
    copy = member.env.envs[0]
    assert copy.unwrapped.length == 50 and copy.spec.max_episode_steps == 5
    member.close()


def test_an_entry_of_installed_code_is_as_it_is() -> None:
    from shoal.envs.registry import entries

    assert [e.id for e in entries({"id": "CartPole-v1"})] == ["CartPole-v0", "CartPole-v1"]
    assert entries("lamps:Lamp-v0") == entries(Script) == entries("no id at all") == ()


def test_what_cannot_be_sent_is_said_with_the_way_out() -> None:
    lock = threading.Lock()
    gymnasium.register("Own/Script-v0", lambda: Script(int(lock.locked())))
    config = default_config("a2c", "Own/Script-v0")
    object.__setattr__(config, "rollout", Rollout(workers=1))
    with pytest.raises(ConfigError, match="cannot be sent to other processes") as caught:
        create_fleet(config, "Own/Script-v0")
    assert "env='module:Own/Script-v0'" in str(caught.value.fix)
