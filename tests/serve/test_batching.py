"""Images of many requests share batches; errors and disconnects of one do not affect the others."""

import asyncio
import threading
import time

import pytest
import torch

pytest.importorskip("starlette")

from resnets.serve.batching import Batcher
from resnets.serve.limits import Limits
from resnets.serve.problems import Problem


def mean_of(images):
    """A network whose output is the mean of the image, so that results can be told apart."""
    return [one.float().mean() for one in images]


def image(value):
    return torch.full((3, 4, 4), value, dtype=torch.uint8)


async def ask(batcher, value, pause=0.0):
    with batcher.accept(1) as accepted:
        await asyncio.sleep(pause)
        return await accepted.compute(image(value))


def test_each_request_gets_its_own_answer_in_shared_batches():
    sizes = []

    def slow(images):
        time.sleep(0.01)
        return mean_of(images)

    async def run():
        batcher = Batcher(slow, Limits(batch=8), lambda size, seconds: sizes.append(size))
        found = await asyncio.gather(*(ask(batcher, v, 0.0005 * (v % 7)) for v in range(100)))
        assert batcher.accepted == batcher.decoding == 0
        batcher.close()
        return found

    found = asyncio.run(run())
    assert [answered.output.item() for answered in found] == list(range(100))
    assert sum(sizes) == 100
    assert max(sizes) == 8
    assert len(sizes) < 40  # they did share
    assert all(answered.network_seconds >= 0.01 for answered in found)


def test_an_idle_network_waits_briefly_for_images_being_decoded_only():
    async def run(limits):
        sizes = []
        batcher = Batcher(mean_of, limits, lambda size, seconds: sizes.append(size))
        start = time.perf_counter()
        await ask(batcher, 1)
        alone = time.perf_counter() - start
        await asyncio.gather(ask(batcher, 2), ask(batcher, 3, 0.05))
        batcher.close()
        return alone, sizes

    alone, sizes = asyncio.run(run(Limits(batch_wait=5.0)))
    assert alone < 2.5  # did not wait for others: none were coming
    assert sizes == [1, 2]
    _, sizes = asyncio.run(run(Limits(batch_wait=0.001)))
    assert sizes == [1, 1, 1]


def test_a_full_queue_refuses_and_recovers():
    async def run():
        go = threading.Event()

        def held(images):
            go.wait(10)
            return mean_of(images)

        batcher = Batcher(held, Limits(queue=3, batch=1))
        tasks = [asyncio.create_task(ask(batcher, v)) for v in range(3)]
        await asyncio.sleep(0.05)
        with pytest.raises(Problem) as caught, batcher.accept(1):
            pass
        assert caught.value.status == 503
        assert int(caught.value.headers["Retry-After"]) >= 1
        go.set()
        found = await asyncio.gather(*tasks)
        assert [answered.output.item() for answered in found] == [0, 1, 2]
        assert (await ask(batcher, 9)).output.item() == 9
        batcher.close()

    asyncio.run(run())


def test_images_of_disconnected_clients_are_not_computed():
    async def run():
        sizes = []

        def slow(images):
            time.sleep(0.05)
            return mean_of(images)

        batcher = Batcher(slow, Limits(), lambda size, seconds: sizes.append(size))
        first = asyncio.create_task(ask(batcher, 1))
        await asyncio.sleep(0.01)
        leaving = asyncio.create_task(ask(batcher, 2))
        staying = asyncio.create_task(ask(batcher, 3))
        await asyncio.sleep(0.01)
        leaving.cancel()
        assert (await first).output.item() == 1
        assert (await staying).output.item() == 3
        assert sizes == [1, 1]  # what nobody waits for is not computed
        assert batcher.accepted == batcher.decoding == 0
        batcher.close()

    asyncio.run(run())


def test_an_error_of_the_engine_fails_its_batch_only():
    async def run():
        def moody(images):
            if any((one == 13).any() for one in images):
                raise RuntimeError("no luck")
            return mean_of(images)

        batcher = Batcher(moody, Limits(batch=1))
        with pytest.raises(Problem, match="the network failed") as caught:
            await ask(batcher, 13)
        assert caught.value.status == 500
        assert (await ask(batcher, 14)).output.item() == 14
        assert batcher.accepted == 0
        batcher.close()

    asyncio.run(run())


def test_a_disconnected_client_does_not_keep_the_worker_busy():
    async def run():
        batcher = Batcher(mean_of, Limits(batch_wait=0.05))
        with batcher.accept(1):  # another image is coming, so the network waits for it
            task = asyncio.create_task(ask(batcher, 1))
            await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.sleep(0.1)
            start = time.thread_time()
            await asyncio.sleep(0.3)
            assert time.thread_time() - start < 0.1  # it does not turn in a circle
        assert (await ask(batcher, 2)).output.item() == 2
        batcher.close()

    asyncio.run(run())


def test_too_few_results_fail_the_batch_and_the_next_one_is_computed():
    async def run():
        batcher = Batcher(lambda images: mean_of(images[: 1 - len(images)]), Limits())
        with pytest.raises(Problem, match="the network failed"):
            await asyncio.gather(ask(batcher, 1), ask(batcher, 2))
        batcher._network = mean_of
        assert (await ask(batcher, 3)).output.item() == 3
        batcher.close()

    asyncio.run(run())
