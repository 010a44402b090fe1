"""A few of the random programs of fuzz.py (`make fuzz` runs many), and
timers, watched descriptors and dropped loops against what they should do."""

import asyncio
import gc
import heapq
import random
import socket
import warnings

import fuzz
import pytest
from support import drain, open_fds, spin

SEEDS = [*range(12), random.SystemRandom().randrange(1 << 30)]
MODELS = [*range(4), random.SystemRandom().randrange(1 << 30)]


@pytest.mark.parametrize("seed", SEEDS)
def test_programs(seed, loop_name, pyloop_only):
    """asyncio fails here and there, on what it does after its own end
    (python tests/fuzz.py --loop asyncio)."""
    violations = fuzz.program(seed)
    assert not violations, f"seed {seed}\n" + "\n".join(violations)


@pytest.mark.parametrize("seed", MODELS)
def test_timers_against_a_model(loop, seed):
    """A virtual clock, a heap in Python, the same order of calls."""

    class Virtual(type(loop)):
        now = 1000.0

        def time(self):
            return self.now

    rng = random.Random(seed)
    virtual = Virtual()
    fired, model, handles = [], [], {}
    count = 0
    try:
        for _ in range(rng.choice([50, 500])):
            for _ in range(rng.randrange(6)):
                count += 1
                # All different: asyncio leaves the order of equals open.
                when = virtual.now + rng.uniform(-1, 10)
                handles[count] = virtual.call_at(when, fired.append, count)
                heapq.heappush(model, (when, count))
            for number in rng.sample(sorted(handles), len(handles) // 4):
                if rng.random() < 0.5:
                    handles.pop(number).cancel()
            virtual.now += rng.choice([0, 0.1, 1, 5])
            spin(virtual)
            spin(virtual)
            expected = []
            while model and model[0][0] <= virtual.now:
                _, number = heapq.heappop(model)
                if handles.pop(number, None):
                    expected.append(number)
            assert fired == expected
            del fired[:]
    finally:
        virtual.close()


@pytest.mark.parametrize("seed", MODELS)
def test_watched_descriptors_against_a_model(loop, seed):
    """Readers and writers come and go, sockets are closed and their numbers
    used again; who runs is who should."""
    rng = random.Random(seed)
    pairs = {}
    watched = {}
    ran = set()
    generation = 0

    def note(key):
        ran.add(key)

    def add(kind, sock):
        nonlocal generation
        generation += 1
        key = kind, sock.fileno(), generation
        method = loop.add_reader if kind == "r" else loop.add_writer
        method(rng.choice([sock, sock.fileno()]), note, key)
        watched[kind, sock.fileno()] = key

    def remove(kind, sock):
        known = watched.pop((kind, sock.fileno()), None)
        method = loop.remove_reader if kind == "r" else loop.remove_writer
        assert method(sock) is (known is not None)

    for _ in range(300):
        choice = rng.randrange(10)
        if choice < 2 and len(pairs) < 10:
            pair = socket.socketpair()
            for sock in pair:
                sock.setblocking(False)
                pairs[sock] = pair
        if pairs:
            sock = rng.choice(list(pairs))
            if choice in (2, 3, 4):
                add(rng.choice("rw"), sock)
            elif choice in (5, 6):
                remove(rng.choice("rw"), sock)
            elif choice == 7:
                sock.send(b"x")
            elif choice == 8:
                drain(sock)
            elif choice == 9:
                for end in pairs[sock]:
                    remove("r", end)
                    remove("w", end)
                    del pairs[end]
                    end.close()
        ran.clear()
        # Twice: a first turn may run what an earlier poll found.
        spin(loop)
        spin(loop)
        spin(loop)
        readable = {
            ("r", end.fileno())
            for end in pairs
            if peek(end) and ("r", end.fileno()) in watched
        }
        writable = {key for key in watched if key[0] == "w"}
        assert ran == {watched[key] for key in readable | writable}
    for end in pairs:
        for kind in "rw":
            remove(kind, end)
        end.close()


def peek(sock):
    try:
        sock.recv(1, socket.MSG_PEEK)
        return True
    except BlockingIOError:
        return False


@pytest.mark.parametrize("seed", MODELS)
def test_loops_dropped_in_any_state(loop_factory, seed):
    """Closed or not, with anything under way: no crash, no descriptor."""
    rng = random.Random(seed)
    before = open_fds().keys()

    async def start(loop, things):
        for _ in range(rng.randrange(5)):
            choice = rng.randrange(6)
            if choice == 0:
                loop.call_later(1000, things.append, 1)
            elif choice == 1:
                things.append(asyncio.ensure_future(asyncio.sleep(1000)))
            elif choice == 2:
                near, far = socket.socketpair()
                things.append(
                    await loop.create_connection(asyncio.Protocol, sock=near)
                )
                things.append(far)
                things[-2][0].write(bytes(rng.choice([1, 1 << 20])))
            elif choice == 3:
                things.append(
                    await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
                )
            elif choice == 4:
                near, far = socket.socketpair()
                loop.add_reader(near, things.append, 1)
                things += [near, far]
            else:
                loop.call_soon_threadsafe(things.append, 1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(10):
            loop = loop_factory()
            loop.set_exception_handler(lambda *args: None)
            things, thing = [], None
            loop.run_until_complete(start(loop, things))
            for _ in range(rng.randrange(3)):
                spin(loop)
            for thing in things:
                if isinstance(thing, asyncio.Task):
                    thing._log_destroy_pending = False
            if rng.random() < 0.5:
                loop.close()
            order = [loop, *things]
            rng.shuffle(order)
            del loop, things, thing
            while order:
                order.pop()
                if rng.random() < 0.3:
                    gc.collect()
            gc.collect()
    gc.collect()
    assert open_fds().keys() == before
