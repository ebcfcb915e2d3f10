// Runs a fuzz target where the compiler has no libFuzzer: program SECONDS RUNS CORPUS. The inputs of the folder first; then, until the
// time is over or so many have run, changed ones from a seed that the folder fixes. Those that reach new edges of the code are kept, and written to the folder. An input that
// fails, or takes more than 30 s of processor time, is written to the working directory; given as the only argument it is run alone.
#include <sanitizer/common_interface_defs.h>
#include <sys/time.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using Bytes = std::vector<std::uint8_t>;

Bytes current;
constexpr std::size_t edges = 1 << 18;
bool seen[edges];
std::size_t n_seen = 0;
thread_local std::uintptr_t before = 0;

std::string name_of(const Bytes& bytes) {
  std::uint64_t hash = 1469598103934665603u;
  for (const std::uint8_t b : bytes) hash = (hash ^ b) * 1099511628211u;
  char name[17];
  std::snprintf(name, sizeof name, "%016llx", static_cast<unsigned long long>(hash));
  return name;
}

void write(const std::filesystem::path& path, const Bytes& bytes) {
  std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}

void keep_failure() {
  const std::string name = "failing-" + name_of(current);
  write(name, current);
  std::fprintf(stderr, "input kept as %s\n", name.c_str());
}

void on_signal(int number) {
  std::fprintf(stderr, "%s\n", number == SIGPROF ? "took longer than 30 s" : "an answer breaks its promise");
  keep_failure();
  std::_Exit(1);
}

Bytes read(const std::filesystem::path& path) {
  std::ifstream opened(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(opened), {}};
}

// In seconds of processor time, as others may be at work on the machine.
void limit(long seconds) {
  const itimerval timer{{0, 0}, {seconds, 0}};
  setitimer(ITIMER_PROF, &timer, nullptr);
}

// Whether the input reached something new.
bool run(const Bytes& bytes) {
  current = bytes;
  before = 0;
  const std::size_t known = n_seen;
  limit(30);
  LLVMFuzzerTestOneInput(current.data(), current.size());
  limit(0);
  return n_seen > known;
}

Bytes changed(const std::vector<Bytes>& corpus, std::mt19937& random) {
  const auto pick = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  Bytes bytes = corpus.empty() ? Bytes{} : corpus[pick(corpus.size())];
  for (std::size_t n = 1 + pick(8); n > 0; --n) {
    const auto byte = static_cast<std::uint8_t>(random());
    switch (pick(4)) {
      case 0: bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(pick(bytes.size() + 1)), byte); break;
      case 1:
        if (!bytes.empty()) bytes.resize(pick(bytes.size() + 1));
        break;
      case 2:
        if (!corpus.empty()) {  // the end of another
          const Bytes& other = corpus[pick(corpus.size())];
          const std::size_t from = pick(other.size() + 1);
          bytes.resize(std::min(bytes.size(), from));
          bytes.insert(bytes.end(), other.begin() + static_cast<std::ptrdiff_t>(from), other.end());
        }
        break;
      default:
        if (!bytes.empty()) bytes[pick(bytes.size())] = byte;
    }
  }
  if (bytes.size() > 1024) bytes.resize(1024);
  return bytes;
}

}  // namespace

// Called by the instrumented code on every edge, so unchecked itself.
extern "C" __attribute__((no_sanitize("address", "undefined"))) void __sanitizer_cov_trace_pc() {
  const auto here = reinterpret_cast<std::uintptr_t>(__builtin_return_address(0));
  const std::size_t edge = (here ^ before) % edges;
  before = here >> 1;
  if (!seen[edge]) {
    seen[edge] = true;
    ++n_seen;
  }
}

int main(int argc, char** argv) {
  __sanitizer_set_death_callback(keep_failure);
  std::signal(SIGABRT, on_signal);
  std::signal(SIGPROF, on_signal);
  if (argc == 2) {
    run(read(argv[1]));
    return 0;
  }
  if (argc != 4) {
    std::fprintf(stderr, "usage: %s SECONDS RUNS CORPUS, or %s INPUT\n", argv[0], argv[0]);
    return 2;
  }
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(std::atol(argv[1]));
  const std::size_t most = std::strtoull(argv[2], nullptr, 10);
  const std::filesystem::path folder = argv[3];
  std::filesystem::create_directories(folder);
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  std::vector<Bytes> corpus;
  for (const auto& file : files) {
    if (run(read(file))) corpus.push_back(current);
  }
  std::mt19937 random(static_cast<std::uint32_t>(files.size()));
  std::size_t runs = files.size();
  for (; runs < most && std::chrono::steady_clock::now() < end; ++runs) {
    if (runs % 10000 == 0) {
      std::printf("%zu inputs run, %zu kept, %zu edges reached\n", runs, corpus.size(), n_seen);
      std::fflush(stdout);
    }
    if (!run(changed(corpus, random))) continue;
    corpus.push_back(current);
    write(folder / name_of(current), current);
  }
  std::printf("%zu inputs run, %zu kept, %zu edges reached, no failure\n", runs, corpus.size(), n_seen);
}
