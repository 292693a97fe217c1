"""Edit an unpacked Horovod 0.28.1, its last release, in place: `python scripts/horovod_edits.py FOLDER`.

- The headers of torch 2 need C++20 where its CMake files ask for C++14.
- A Release build makes a wheel of 1 MB instead of 19.
- A rank of an elastic group that finds nobody where another was promised, since that one died while it started, has
  to be told: `hvd.init()` raises ValueError, with the reason in HOROVOD_INIT_ERROR, and may be called again. Unedited,
  the whole process aborts.
- An error of the background thread that is not a lost peer ends the process with one line. Unedited, it is logged, and
  a collective that was begun is never answered: all ranks wait for ever. A lost peer is answered as before.
- A rank that waits for a collective sleeps for a moment before it looks again. Unedited, it looks all the time, and
  takes the processor from the thread that it waits for wherever cores are shared.
"""

from __future__ import annotations

import sys
from pathlib import Path

GUARD = """\
void BackgroundThreadLoopOrFailure(HorovodGlobalState& state) {
  try {
    BackgroundThreadLoop(state);
  } catch (const std::exception& ex) {
    SetEnv("HOROVOD_INIT_ERROR", ex.what());
    state.process_set_table.Finalize(global_gloo_context, SHUT_DOWN_ERROR);
    global_gloo_context.Finalize();
    state.initialization_failed = true;
  }
}

"""
LOOK, SLEEP = "std::this_thread::yield();", "std::this_thread::sleep_for(std::chrono::microseconds(20));"
THREAD = "// Start Horovod background thread. Ensure that this is\n"
NOT_DONE = "horovod_global.initialization_done = false;"
GLOO = '#include "ops/gloo_operations.h"\n'
UNCAUGHT = '<< "Horovod background loop uncaught exception: " << ex.what();'
END = """
#if HAVE_GLOO
    if (dynamic_cast<const ::gloo::IoException*>(&ex) == nullptr)
#endif
    {
      const std::string what = ex.what();
      std::fprintf(stderr, "horovod: its background thread failed: %s\\n", what.substr(0, what.find('\\n')).c_str());
      std::fflush(stderr);
      std::_Exit(1);
    }"""
CPP14, CPP20 = "CMAKE_CXX_STANDARD 14", "CMAKE_CXX_STANDARD 20"
EDITS = [
    ("CMakeLists.txt", CPP14, CPP20),
    ("horovod/torch/CMakeLists.txt", CPP14, CPP20),
    ("setup.py", "RelWithDebInfo", "Release"),
    ("horovod/torch/mpi_ops_v2.cc", LOOK, SLEEP),
    ("horovod/common/operations.cc", THREAD, GUARD + THREAD),
    ("horovod/common/operations.cc", "std::thread(BackgroundThreadLoop,", "std::thread(BackgroundThreadLoopOrFailure,"),
    ("horovod/common/operations.cc", GLOO, GLOO + '#include "gloo/common/error.h"\n'),
    ("horovod/common/operations.cc", UNCAUGHT, UNCAUGHT + END),
    ("horovod/common/operations.cc", NOT_DONE, NOT_DONE + " horovod_global.initialization_failed = false;"),
]


def main(folder: Path) -> None:
    """Make all edits; raises ValueError where this is another Horovod."""
    for name, old, new in EDITS:
        text = (folder / name).read_text()
        if old not in text:
            raise ValueError(f"{name}: holds no {old!r}; is this Horovod 0.28.1?")
        (folder / name).write_text(text.replace(old, new))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
