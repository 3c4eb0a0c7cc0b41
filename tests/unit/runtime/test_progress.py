"""What counts as getting on, fed with histories: lines and figures in, the moment of the last progress out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disagg_launch.runtime.phases import PATTERNS, phase_of
from disagg_launch.runtime.progress import ENOUGH_BYTES, Figures, Progress
from disagg_launch.runtime.pulse import gpu_bytes

MIB = 1 << 20


def heard(*lines):
    """When an instance that said these lines, one a second, last got on."""
    one = Progress()
    for second, text in enumerate(lines, 1):
        one.said(0, text, second)
    return one.moved_s


def test_a_line_of_a_new_form_is_progress_and_the_same_with_other_numbers_is_not():
    assert heard("importing torch", "reading config") == 2
    assert heard("waiting for rank 1 (1 s)", "waiting for rank 1 (2 s)", "waiting for rank 1 (3 s)") == 1
    assert heard("[05-06 20:59:57] retry 7f3a9c01e5", "[05-06 21:00:01] retry 88b1c9d0aa") == 1
    assert heard("", "   ") == 0


def test_two_lines_in_turns_for_ever_are_no_progress():
    assert heard(*["polling the store", "no answer yet"] * 50) == 2


def test_a_further_percentage_is_progress_and_the_same_again_is_not():
    bar = "Loading safetensors checkpoint shards: {:3}% Completed | {}/9 [00:{}<00:11,  2.87s/it]"
    assert heard(bar.format(11, 1, 13), bar.format(22, 2, 16), bar.format(22, 2, 17), bar.format(22, 2, 18)) == 2


def test_a_step_of_a_known_phase_counts_with_its_numbers_but_not_with_its_time():
    line = "[09/17/2025-21:24:{}] [TRT-LLM] [I] Run generation-only CUDA graph warmup for batch size={}, draft_len=0"
    assert heard(line.format(18, 64), line.format(19, 32), line.format(20, 16)) == 3
    assert heard(line.format(18, 64), line.format(19, 64), line.format(20, 64)) == 1


def test_what_grows_is_progress_and_what_comes_and_goes_is_not():
    one = Progress()
    one.measured(0, Figures(memory_bytes=100 * MIB), 1)
    one.measured(0, Figures(memory_bytes=200 * MIB), 2)
    assert one.moved_s == 2
    one.measured(0, Figures(memory_bytes=100 * MIB), 3)
    one.measured(0, Figures(memory_bytes=200 * MIB), 4)
    assert one.moved_s == 2
    one.measured(0, Figures(memory_bytes=200 * MIB, read_bytes=ENOUGH_BYTES), 5)
    assert one.moved_s == 5
    one.measured(0, Figures(memory_bytes=200 * MIB, read_bytes=ENOUGH_BYTES, gpu_bytes=8 * MIB), 6)
    assert one.moved_s == 6


def test_a_slow_reader_gets_on_although_each_look_sees_little():
    one = Progress()
    for second in range(9):
        one.measured(0, Figures(read_bytes=second * MIB), second)
    assert one.moved_s == 8


def test_processor_time_alone_is_being_busy():
    one = Progress()
    for second in range(10):
        one.measured(0, Figures(cpu_s=0.9 * second), second)
    assert (one.moved_s, one.busy_s) == (0, 9)


def test_a_process_that_has_ended_takes_its_figures_with_it():
    one = Progress()
    for second, cpu_s in enumerate((50.0, 1.0, 1.01, 1.9), 1):
        one.measured("node1", Figures(cpu_s=cpu_s), second)
    assert one.busy_s == 4


def test_the_percentage_is_that_of_the_slowest_rank_and_the_log_knows_better_than_the_files():
    one = Progress()
    assert one.phase is None
    one.measured(0, Figures(weights_done=3, weights_bytes=10), 1)
    assert (one.phase.name, one.phase.percent) == ("weights", 30)
    one.measured(0, Figures(weights_done=2, weights_bytes=10), 2)
    assert one.phase.percent == 30
    one.said(1, "Loading weights: 20%|██ | 2/10", 3)
    assert one.phase.percent == 20
    one.said(0, "Loading weights: 40%|██ | 2/10", 3)
    one.measured(0, Figures(weights_done=9, weights_bytes=10), 4)
    assert {rank: phase.percent for rank, phase in one.phases.items()} == {0: 40, 1: 20}
    one.said(1, "Creating CUDA graph instances for 12 batch sizes.", 5)
    assert (one.phase.name, one.phase.percent) == ("graphs", None)


# as engines print them; where from, is told in phases.py
LINES = [
    ("Loading safetensors checkpoint shards:  56% Completed | 5/9 [00:13<00:11,  2.87s/it]", "weights", 56),
    ("(EngineCore_DP0 pid=1) Capturing CUDA graphs (decode, FULL):  33%|███▎      | 1/3 [00:03<00:07]", "graphs", 33),
    ("Capturing CUDA graph shapes: 100%|██████████| 35/35 [00:14<00:00,  2.41it/s]", "graphs", 100),
    ("(Worker_TP0 pid=34322) INFO 05-06 21:00:16 [backends.py:1128] Dynamo bytecode transform time: 3.54 s", "compiling", None),
    ("INFO 10-07 22:54:57 model_runner.py:1014] Starting to load model meta-llama/Llama-3.2-3B-Instruct...", "weights", None),
    ("INFO 10-07 22:54:54 llm_engine.py:226] Initializing an LLM engine (v0.6.1) with config: model='x'", "starting", None),
    ("INFO 02-25 18:26:42 [kv_cache_utils.py:864] GPU KV cache size: 305,664 tokens", "cache", None),
    ("[2025-10-16 09:06:09 TP7] Init torch distributed ends. mem usage=1.77 GB", "starting", None),
    ("[2026-01-30 20:54:50 PP1 TP0] Load weight begin. avail mem=78.38 GB", "weights", None),
    ("Capturing batches (bs=4 avail_mem=18.72 GB):  33%|███▎      | 1/3 [00:03<00:07,  3.93s/it]", "graphs", 33),
    ("[2026-05-08 20:32:54] Start of pd disaggregation warmup ...", "warm-up", None),
    ("[2025-08-08 03:34:38] Memory pool end. avail mem=2.43 GB", "cache", None),
    ("Loading weights concurrently:  94%|█████████▍| 723/769 [00:01<00:00, 336.17it/s]", "weights", 94),
    ("Loading safetensors weights in parallel: 100%|██████████| 1/1 [00:00<00:00, 205.99it/s]", "weights", 100),
    ("[06/17/2025-16:35:04] [TRT-LLM] [RANK 0] [I] Prefetching 12.55GB checkpoint files.", "weights", None),
    ("[TensorRT-LLM][INFO] [MemUsageChange] Allocated 26.91 GiB for max tokens in paged KV cache (220480).", "cache", None),
    ("[08/28/2025-01:02:03] [TRT-LLM] [I] [Autotuner] Autotuning process starts ...", "tuning", None),
    ("[08/28/2025-01:02:03] [TRT-LLM] [I] Creating CUDA graph instances for 12 batch sizes.", "graphs", None),
    ("2026-11-27 03:00:00,000 INFO loading weights: 15 of 30 layers", "weights", 50),
    ("INFO:     127.0.0.1:41496 - \"GET /health HTTP/1.1\" 200 OK", None, None),
    ("ValueError: no such model", None, None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "name", "percent"), LINES)
def test_engines_own_words(text, name, percent):
    found = phase_of(text)
    assert (found and found.name, found and found.percent) == (name, percent)


def test_every_engine_has_a_line_that_shows_its_patterns():
    told = {phase_of(text)[0] for text, name, _ in LINES if name}
    assert told == {phase for _, phase, _ in PATTERNS}


def test_gpu_memory_is_summed_over_the_gpus_of_a_process():
    assert gpu_bytes("4711, 1024\n4711, 512\n12, [N/A]\n\n99, 1\n") == {4711: 1536 * MIB, 99: MIB}


events = st.lists(
    st.one_of(
        st.tuples(st.just("said"), st.integers(0, 3), st.text("ab 1%", max_size=8)),
        st.tuples(
            st.just("measured"),
            st.integers(0, 3),
            st.builds(Figures, st.integers(0, 1 << 30), st.integers(0, 1 << 30), st.integers(0, 1 << 30), st.floats(0, 100)),
        ),
    ),
    max_size=60,
)


def play(history, seconds):
    one = Progress()
    for second, (kind, source, what) in zip(seconds, history):
        (one.said if kind == "said" else one.measured)(source, what, second)
    return one


@given(events)
def test_the_clock_only_goes_forward_and_moving_is_being_busy(history):
    last = (0.0, 0.0)
    for count in range(len(history) + 1):
        one = play(history[:count], range(1, count + 1))
        assert (one.moved_s, one.busy_s) >= last and one.busy_s >= one.moved_s
        last = (one.moved_s, one.busy_s)


@given(events, st.integers(1, 5))
def test_whatever_was_seen_seeing_it_again_is_no_progress(history, times):
    lines = [one for one in history if one[0] == "said"]
    once = play(lines, range(1, len(lines) + 1))
    again = play(lines * (times + 1), range(1, len(lines) * (times + 1) + 1))
    assert again.moved_s == once.moved_s
