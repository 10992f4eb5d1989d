"""Served versions of each model, and their changes, by the repository's own calls."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from service.errors import Draining, LoadFailure, NotReady, UnknownModel
from service.lifecycle import State
from service.settings import SettingsError
from tests.support.api import Api
from tests.support.limits import HANG_S
from tests.support.pictures import Solid
from tests.support.shelf import Shelf, Shelving, rescan, until_loaded

pytestmark = pytest.mark.anyio


def served(api: Api) -> dict[str, str]:
    """Version by name."""
    return {model.manifest.name: model.version for model in api.runtime.models.models}


async def settled(api: Api) -> dict[str, str]:
    """Version by name, once all of the start is over."""
    await until_loaded(api)
    return served(api)


async def index(api: Api) -> list[tuple[str, str, str, str]]:
    return [(entry.name, entry.version, entry.state, entry.reason) for entry in await api.runtime.models.index()]


async def test_the_newest_version_of_each_serves(shelf: Shelf, shelving: Shelving) -> None:
    shelf.put("street", "1.9.0", "1.10.0", "1.2.0")
    shelf.put("night", "2.0.0-rc.1", "1.0.0")
    async with shelving() as api:
        assert await settled(api) == {"street": "1.10.0", "night": "2.0.0-rc.1"}
        assert await index(api) == [
            ("night", "2.0.0-rc.1", "READY", ""),
            ("night", "1.0.0", "UNAVAILABLE", "not loaded: version 2.0.0-rc.1 serves"),
            ("street", "1.10.0", "READY", ""),
            ("street", "1.9.0", "UNAVAILABLE", "not loaded: version 1.10.0 serves"),
            ("street", "1.2.0", "UNAVAILABLE", "not loaded: version 1.10.0 serves"),
        ]


async def test_the_default_is_the_first_by_name_and_the_log_says_so(
    shelf: Shelf, shelving: Shelving, caplog: pytest.LogCaptureFixture
) -> None:
    shelf.put("street", "1")
    shelf.put("night", "1")
    with caplog.at_level(logging.INFO):
        async with shelving() as api:
            assert api.pipeline.manifest.name == "night"
    assert "the default model is night, the first of night, street; --default-model chooses another" in caplog.text
    async with shelving(default_model="street") as api:
        assert api.pipeline.manifest.name == "street"


async def test_a_default_that_is_not_there_is_an_error(shelf: Shelf, shelving: Shelving) -> None:
    shelf.put("street", "1")
    shelf.put("night", "1")
    with pytest.raises(SettingsError, match="--default-model is 'day'; the available models are night, street"):
        shelving(default_model="day")


async def test_a_folders_name_is_no_default(shelf: Shelf, shelving: Shelving) -> None:
    shelf.put("street", "1")
    shelf.put_unreadable("a")
    async with shelving() as api:
        assert await settled(api) == {"street": "1"}
        assert (await index(api))[0] == ("a", "", "UNAVAILABLE", "a/manifest.json cannot be read")
        with pytest.raises(UnknownModel, match=r"'a' is not served: a/manifest\.json cannot be read"):
            api.runtime.pipeline("a")


async def test_the_process_is_ready_when_the_default_is(shelf: Shelf, shelving: Shelving) -> None:
    shelf.put("night", "1")
    shelf.put("street", "1")
    shelf.shut()
    async with shelving(warm=False) as api:
        with pytest.raises(NotReady):
            api.runtime.check_ready()
        for name in ("night", "street"):
            with pytest.raises(NotReady, match="the model is being loaded"):
                api.runtime.pipeline(name)
        assert await asyncio.to_thread(shelf.loading.wait, HANG_S)
        assert ("night", "1", "LOADING", "it is being loaded") in await index(api)
        assert ("street", "1", "UNAVAILABLE", "not loaded yet") in await index(api)
        shelf.gate.set()
        await api.runtime.started.wait()
        api.runtime.check_ready()
        assert await settled(api) == {"night": "1", "street": "1"}


async def test_a_newest_version_that_fails_leaves_the_name_to_the_next(
    shelf: Shelf, shelving: Shelving, caplog: pytest.LogCaptureFixture
) -> None:
    shelf.put("street", "1.0.0", "1.1.0")
    shelf.spoil("street", "1.2.0")
    shelf.spoil("street", "1.3.0", RuntimeError("a bug"))
    async with shelving() as api:
        assert served(api) == {"street": "1.1.0"}
        assert (await index(api))[:3] == [
            ("street", "1.3.0", "UNAVAILABLE", "loading street 1.3.0 failed: a bug"),
            ("street", "1.2.0", "UNAVAILABLE", "street 1.2.0 is spoilt"),
            ("street", "1.1.0", "READY", ""),
        ]
        assert await api.metric('ecenet_model_loads_total{model="street",result="failure"}') == 2
        assert await api.metric('ecenet_model_loads_total{model="street",result="success"}') == 1
    assert "street 1.2.0 cannot be served: street 1.2.0 is spoilt" in caplog.text


async def test_a_default_without_a_version_that_works_fails_the_start(shelf: Shelf, shelving: Shelving) -> None:
    shelf.spoil("night", "1")
    shelf.spoil("night", "2")
    shelf.put("street", "1")
    async with shelving() as api:
        assert api.runtime.lifecycle.state is State.FAILED
        assert api.runtime.lifecycle.failure == "2: night 2 is spoilt; 1: night 1 is spoilt"


async def test_another_name_without_a_version_that_works_is_left_out(shelf: Shelf, shelving: Shelving) -> None:
    shelf.put("night", "1")
    shelf.spoil("street", "1")
    async with shelving() as api:
        assert await settled(api) == {"night": "1"}
        api.runtime.check_ready()
        with pytest.raises(UnknownModel, match="'street' is not served: street 1 is spoilt; served: 'night'"):
            api.runtime.pipeline("street")


async def test_loads_switch_forth_and_back_and_close_what_served(shelf: Shelf, shelving: Shelving) -> None:
    shelf.put("street", "1", "2")
    async with shelving() as api:
        first = shelf.engines["street", "2"]
        assert (await api.runtime.models.load("street", "1")).version == "1"
        assert await asyncio.to_thread(first.closed.wait, HANG_S)
        with pytest.raises(UnknownModel, match="version '2' of 'street' is not served; '1' is"):
            api.runtime.pipeline("street", "2")
        assert api.runtime.pipeline("street", "1").manifest.version == "1"
        assert (await api.runtime.models.load("street")).version == "2"
        assert [engine.version for engine in shelf.made] == ["2", "1", "2"]
        info = [line for line in (await api.get("/metrics")).text.splitlines() if line.startswith("ecenet_model_info")]
        assert len(info) == 1
        assert 'version="2"' in info[0]


async def test_a_version_that_serves_can_be_loaded_anew(shelf: Shelf, shelving: Shelving, solid: Solid) -> None:
    shelf.put("street", "1")
    async with shelving() as api:
        await api.runtime.models.load("street")
        first, second = shelf.made
        assert await asyncio.to_thread(first.closed.wait, HANG_S)
        second.entered.clear()
        assert (await api.post(solid(0))).status_code == 200
        assert second.entered.is_set()


@pytest.mark.parametrize("problem", [None, RuntimeError("a crash")])
async def test_a_broken_version_leaves_the_old_one_serving(
    shelf: Shelf, shelving: Shelving, solid: Solid, problem: Exception | None
) -> None:
    shelf.put("street", "1")
    async with shelving() as api:
        shelf.spoil("street", "2", problem)
        with pytest.raises(LoadFailure, match=r"spoilt|a crash"):
            await api.runtime.models.load("street")
        assert served(api) == {"street": "1"}
        assert set(api.pixels(await api.post(solid(0))).ravel().tolist()) == {1}
        assert await api.metric('ecenet_model_loads_total{model="street",result="failure"}') == 1
        assert (await index(api))[0][:3] == ("street", "2", "UNAVAILABLE")


async def test_what_is_not_there_cannot_be_loaded_or_unloaded(shelf: Shelf, shelving: Shelving) -> None:
    shelf.put("street", "1")
    async with shelving() as api:
        with pytest.raises(UnknownModel, match="model 'day' is not there; served: 'street'"):
            await api.runtime.models.load("day")
        with pytest.raises(UnknownModel, match="version '7' of 'street' does not exist; these do: 1"):
            await api.runtime.models.load("street", "7")
        with pytest.raises(UnknownModel, match="model 'day' is unknown"):
            await api.runtime.models.unload("day")
        shelf.is_away = True
        with pytest.raises(LoadFailure, match="the shelf is empty"):
            await api.runtime.models.load("street")
        assert await index(api) == [("street", "1", "READY", "")]


async def test_an_unloaded_model_is_unknown_until_it_is_loaded(shelf: Shelf, shelving: Shelving) -> None:
    shelf.put("night", "1")
    shelf.put("street", "1", "2")
    async with shelving() as api:
        await settled(api)
        engine = shelf.engines["street", "2"]
        await api.runtime.models.unload("street")
        await api.runtime.models.unload("street")
        assert await asyncio.to_thread(engine.closed.wait, HANG_S)
        with pytest.raises(UnknownModel, match="'street' is not served: it was unloaded; served: 'night'"):
            api.runtime.pipeline("street")
        assert ("street", "2", "UNAVAILABLE", "unloaded") in await index(api)
        assert "0 loaded" in await rescan(api)
        assert served(api) == {"night": "1"}
        text = (await api.get("/metrics")).text
        assert 'ecenet_engine_up{model="street"}' not in text
        assert 'ecenet_model_loads_total{model="street",result="success"} 1.0' in text
        await api.runtime.models.load("street")
        assert served(api) == {"night": "1", "street": "2"}


async def test_without_its_default_model_the_process_is_alive_but_not_ready(shelf: Shelf, shelving: Shelving) -> None:
    shelf.put("night", "1")
    shelf.put("street", "1")
    async with shelving() as api:
        await settled(api)
        await api.runtime.models.unload("night")
        with pytest.raises(NotReady, match="the default model 'night' is not loaded: it was unloaded"):
            api.runtime.check_ready()
        assert (await api.get("/readyz")).json()["title"] == "The service is not ready"
        api.runtime.check_alive()
        assert await api.metric("ecenet_ready") == 0
        assert api.runtime.pipeline("street").manifest.name == "street"
        await api.runtime.models.load("night")
        api.runtime.check_ready()


async def test_a_rescan_follows_the_disk(shelf: Shelf, shelving: Shelving) -> None:
    shelf.put("day", "1")
    shelf.put("night", "1")
    shelf.put("old", "1", "2")
    shelf.put("street", "1")
    async with shelving() as api:
        await settled(api)
        shelf.put("new", "1")
        shelf.put("street", "2")
        shelf.spoil("night", "2")
        shelf.take("old", "1", "2")
        assert await rescan(api) == ("2 loaded (new 1, street 2), 1 unloaded (old 2), 1 failed (night 2), 2 unchanged")
        assert served(api) == {"day": "1", "new": "1", "night": "1", "street": "2"}
        with pytest.raises(UnknownModel, match="'old' is unknown"):
            api.runtime.pipeline("old")
        made = len(shelf.made)
        shelf.take("night", "2")
        assert await rescan(api) == "0 loaded, 0 unloaded, 0 failed, 4 unchanged"
        assert len(shelf.made) == made
        assert ("night", "1", "READY", "") in await index(api)


async def test_a_rescan_falls_back_when_what_serves_has_vanished(shelf: Shelf, shelving: Shelving) -> None:
    shelf.put("street", "1", "2")
    async with shelving() as api:
        shelf.take("street", "2")
        shelf.problems["street", "1"] = RuntimeError("a bug")
        assert "1 failed (street 1), 1 unchanged" in await rescan(api)
        assert served(api) == {"street": "2"}
        assert (await index(api))[-1] == ("street", "1", "UNAVAILABLE", "loading street 1 failed: a bug")
        shelf.problems.clear()
        await rescan(api)
        assert served(api) == {"street": "1"}


async def test_a_version_that_comes_back_serves_again(shelf: Shelf, shelving: Shelving) -> None:
    shelf.put("street", "1", "2")
    async with shelving() as api:
        await api.runtime.models.load("street")
        shelf.take("street", "2")
        await rescan(api)
        assert served(api) == {"street": "1"}
        shelf.put("street", "2")
        await rescan(api)
        assert served(api) == {"street": "2"}


async def test_a_version_that_has_changed_is_loaded_again(shelf: Shelf, shelving: Shelving) -> None:
    shelf.put("street", "1")
    async with shelving() as api:
        shelf.put("street", "1", license="another")
        assert "1 loaded (street 1)" in await rescan(api)
        assert api.pipeline.manifest.license == "another"


async def test_a_manifest_that_breaks_in_its_place_leaves_its_model_serving(shelf: Shelf, shelving: Shelving) -> None:
    """Its folder has another name than the model."""
    shelf.put("street", "1")
    shelf.move("street", "1", Path("models/x"))
    async with shelving() as api:
        shelf.take("street", "1")
        shelf.put_unreadable("x", Path("models/x"))
        assert await rescan(api) == "0 loaded, 0 unloaded, 1 failed (x), 1 unchanged"
        assert served(api) == {"street": "1"}


async def test_a_choice_stays_until_something_newer_than_all_comes(shelf: Shelf, shelving: Shelving) -> None:
    shelf.put("street", "1", "2")
    async with shelving() as api:
        await api.runtime.models.load("street", "1")
        await rescan(api)
        assert served(api) == {"street": "1"}
        shelf.put("street", "1.5")
        shelf.put("street", "1", license="another")
        for _ in range(2):
            await rescan(api)
            assert served(api) == {"street": "1"}
        shelf.put("street", "2.1")
        await rescan(api)
        assert served(api) == {"street": "2.1"}


async def test_a_folder_that_is_away_changes_nothing(shelf: Shelf, shelving: Shelving) -> None:
    shelf.put("street", "1")
    async with shelving() as api:
        shelf.is_away = True
        assert await rescan(api) == "no model changed: the shelf is empty"
        assert served(api) == {"street": "1"}


async def test_loads_are_made_one_after_the_other(shelf: Shelf, shelving: Shelving) -> None:
    shelf.put("street", "1", "2")
    async with shelving() as api:
        shelf.shut()
        loads = [asyncio.create_task(api.runtime.models.load("street", version)) for version in ("1", "2", "1")]
        assert await asyncio.to_thread(shelf.loading.wait, HANG_S)
        assert ("street", "1", "LOADING", "it is being loaded") in await index(api)
        assert len(shelf.made) == 1
        shelf.gate.set()
        assert [model.version for model in await asyncio.gather(*loads)] == ["1", "2", "1"]
        assert served(api) == {"street": "1"}


async def test_a_drain_gives_up_a_load_and_closes_what_it_brings(shelf: Shelf, shelving: Shelving) -> None:
    shelf.put("street", "1", "2")
    async with shelving() as api:
        shelf.shut()
        loads = [asyncio.create_task(api.runtime.models.load("street", version)) for version in ("1", "2")]
        assert await asyncio.to_thread(shelf.loading.wait, HANG_S)
        api.runtime.begin_drain()
        for load in loads:
            with pytest.raises(Draining, match="cancelled this change"):
                await load
        with pytest.raises(Draining, match="does not change its models any more"):
            await api.runtime.models.unload("street")
        assert served(api) == {"street": "2"}
        shelf.gate.set()
        while len(shelf.made) < 2:  # noqa: ASYNC110  nobody tells of a load that nobody waits for
            await asyncio.sleep(0)
        assert await asyncio.to_thread(shelf.made[1].closed.wait, HANG_S)


async def test_a_load_that_takes_too_long_is_given_up_and_the_next_has_its_turn(
    shelf: Shelf, shelving: Shelving
) -> None:
    shelf.put("street", "1")
    async with shelving(load_timeout_s=1) as api:
        shelf.put("street", "2")
        shelf.shut()
        with pytest.raises(LoadFailure, match=r"street 2 was not ready within 1 s \(--load-timeout-s\)"):
            await api.runtime.models.load("street")
        assert served(api) == {"street": "1"}
        assert [reason for *_, state, reason in await index(api) if state == "UNAVAILABLE"] == [
            "street 2 was not ready within 1 s (--load-timeout-s)"
        ]
        shelf.gate.set()
        while len(shelf.made) < 2:  # noqa: ASYNC110  nobody tells of a load that nobody waits for
            await asyncio.sleep(0)
        assert await asyncio.to_thread(shelf.made[1].closed.wait, HANG_S)
        assert (await api.runtime.models.load("street")).version == "2"


async def test_a_start_that_takes_too_long_has_failed(shelf: Shelf, shelving: Shelving) -> None:
    shelf.put("street", "1")
    shelf.shut()
    async with shelving(load_timeout_s=0.05) as api:
        assert api.runtime.lifecycle.failure == "street 1 was not ready within 0.05 s (--load-timeout-s)"
        shelf.gate.set()


async def test_a_load_goes_on_when_who_asked_for_it_leaves(shelf: Shelf, shelving: Shelving) -> None:
    shelf.put("street", "1", "2")
    async with shelving() as api:
        shelf.shut()
        load = asyncio.create_task(api.runtime.models.load("street", "1"))
        assert await asyncio.to_thread(shelf.loading.wait, HANG_S)
        load.cancel()
        shelf.gate.set()
        assert (await api.runtime.models.load("street", "1")).version == "1"
        assert [engine.version for engine in shelf.made] == ["2", "1", "1"]


async def test_a_start_that_is_drained_is_no_failure(shelf: Shelf, shelving: Shelving) -> None:
    shelf.put("street", "1")
    shelf.shut()
    async with shelving(warm=False) as api:
        assert await asyncio.to_thread(shelf.loading.wait, HANG_S)
        api.runtime.begin_drain()
        await api.runtime.started.wait()
        assert (api.runtime.lifecycle.state, api.runtime.lifecycle.failure) == (State.DRAINING, "")
        shelf.gate.set()
