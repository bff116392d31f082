// Programs from beginning to end: warps take turns from barrier to barrier; programs are shared among threads.
#include <atomic>
#include <mutex>
#include <thread>

#include "program.hpp"

Program::Program(const Job& job)
    : counts(size_t(job.code_size) * COUNTS, 0),
      job_(job),
      shared_(job, faults),
      global_(job, faults),
      warps_(job.warps),
      register_file_(size_t(job.register_words) * job.warps),
      predicate_file_(size_t(job.predicates) * job.warps) {}

void Program::begin(i64 program) {
    program_ = program;
    shared_.begin(program);
    global_.begin(program);
    std::fill(predicate_file_.begin(), predicate_file_.end(), 0);
    const i64 x = job_.grid[0], y = job_.grid[1];
    const u32 block[3] = {u32(program % x), u32(program / x % y), u32(program / (x * y))};
    for (int id = 0; id < job_.warps; id++) {
        u32* registers = register_file_.data() + size_t(id) * job_.register_words;
        u32* predicates = predicate_file_.data() + size_t(id) * job_.predicates;
        warps_[id] = Warp{};
        Warp& warp = warps_[id];
        warp.id = id;
        warp.registers = registers;
        warp.predicates = predicates;
        warp.lanes = warp.alive = ALL_LANES;
        warp.sync = warp.fence = 1;
        predicates[1] = ALL_LANES;  // the constants false and true
        for (int lane = 0; lane < LANES;
             lane++) {  // special registers, in the order of SPECIAL_REGISTERS in opcodes.py
            const u32 special[] = {u32(LANES * id + lane),
                                   block[0],
                                   block[1],
                                   block[2],
                                   u32(job_.grid[0]),
                                   u32(job_.grid[1]),
                                   u32(job_.grid[2]),
                                   u32(LANES * job_.warps),
                                   u32(lane)};
            for (size_t k = 0; k < sizeof special / sizeof *special; k++) registers[k * LANES + lane] = special[k];
        }
    }
}

// Let the warps that wait go on; false where all are done.
bool Program::release_barrier() {
    bool all_done = true;
    int at = -1;  // the barrier of the first of them
    for (Warp& warp : warps_) {
        all_done &= warp.done;
        if (warp.waiting && at < 0) at = warp.next - 1;
    }
    if (all_done) return false;
    for (Warp& warp : warps_) {
        if (warp.done || warp.next - 1 != at) faults.add(BARRIER_MISMATCH, at, program_, warp.id, 0, 0);
        warp.waiting = false;
        warp.sync++;
    }
    shared_.next_epoch();
    return true;
}

bool Program::run(i64 program) {
    begin(program);
    do {
        for (int k = 0; k < job_.warps; k++) {
            Warp& warp = warps_[(k + job_.first_warp) % job_.warps];
            if (!warp.done && run_warp(warp) == Turn::FAILED) return false;
        }
    } while (release_barrier());
    return true;
}

// Run a launch. Counts, faults and tensors are in the job; false where a program did not end.
extern "C" int ptx_run(const Job* job) {
    std::atomic<i64> next(0);
    std::atomic<bool> failed(false);
    std::mutex lock;
    FaultLog faults;
    auto work = [&] {
        Program program(*job);
        for (i64 i; (i = next++) < job->programs && !failed;)
            if (!program.run(job->order[i])) failed = true;
        std::lock_guard<std::mutex> guard(lock);
        for (size_t i = 0; i < program.counts.size(); i++) job->counts[i] += program.counts[i];
        faults.merge(program.faults);
    };
    std::vector<std::thread> threads;
    for (int i = 1; i < job->threads; i++) threads.emplace_back(work);
    work();
    for (std::thread& thread : threads) thread.join();
    int count = 0;
    for (const auto& [key, record] : faults.records())
        if (count < job->most_faults) job->faults[count++] = record;
    *job->fault_count = count;
    return failed ? 0 : 1;
}
