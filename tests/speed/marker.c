/* Tells callgrind where the work to be counted begins and ends; a no-op without valgrind. */
#include <valgrind/callgrind.h>

void begin(void) {
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_ZERO_STATS;
}

void end(void) { CALLGRIND_DUMP_STATS; }
