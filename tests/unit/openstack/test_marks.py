from __future__ import annotations

from typing import Any

import pytest

from desktops.clouds.openstack import marks

Json = dict[str, Any]


def test_a_tag_fits_nova_whatever_the_key() -> None:
    tag = marks.tag("transition:17/create, twice" + "x" * 150)
    assert len(tag) <= 60
    assert not {",", "/"} & set(tag)
    assert tag == marks.tag("transition:17/create, twice" + "x" * 150)
    assert tag != marks.tag("transition:18")


@pytest.mark.parametrize("key", ["", "x" * 201, "line\nbreak"])
def test_a_key_no_cloud_could_store_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        marks.checked(key)


def test_two_workers_that_create_at_once_agree_on_the_oldest() -> None:
    store: list[Json] = []

    def find() -> Json | None:
        return marks.oldest(store)

    def work(*, meanwhile: Any = lambda: None) -> Json:
        def create() -> Json:
            meanwhile()
            store.append({"id": f"r{len(store)}", "created_at": f"{len(store)}"})
            return store[-1]

        return marks.once(find, create, store.remove)

    others: list[Json] = []
    mine = work(meanwhile=lambda: others.append(work()))
    assert mine == others[0]
    assert store == [mine]


def test_of_equally_old_ones_everybody_takes_the_same() -> None:
    twins = [{"id": "b", "created": "2026-11-22"}, {"id": "a", "created": "2026-11-22"}]
    assert marks.oldest(twins) == marks.oldest(twins[::-1]) == twins[1]
    assert marks.oldest([]) is None
