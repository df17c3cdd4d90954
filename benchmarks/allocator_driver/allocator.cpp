// torch's own caching allocator for CUDA (libc10_cuda.so), driven from standard input.
//
// A line each: "alloc ID BYTES", "free ID" (passed over where that was refused), "empty" (empty_cache), "limit FRACTION"
// (set_per_process_memory_fraction). At the end of the input its history is printed, a line for each entry: "ACTION ADDRESS
// BYTES", with the actions' names as in torch.cuda.memory._snapshot(); and last what it counted: "peak reserved BYTES".
//
// With the argument "settings" it prints what it made of its settings instead; it ends with 3 where it refuses them.
#include <c10/core/AllocatorConfig.h>
#include <c10/cuda/CUDAAllocatorConfig.h>
#include <c10/cuda/CUDACachingAllocator.h>

#include <cstring>
#include <iostream>
#include <string>
#include <unordered_map>

namespace allocator = c10::cuda::CUDACachingAllocator;

static const char* name_of(allocator::TraceEntry::Action action) {
  using Entry = allocator::TraceEntry;
  switch (action) {
    case Entry::ALLOC: return "alloc";
    case Entry::FREE_REQUESTED: return "free_requested";
    case Entry::FREE_COMPLETED: return "free_completed";
    case Entry::SEGMENT_ALLOC: return "segment_alloc";
    case Entry::SEGMENT_FREE: return "segment_free";
    case Entry::SEGMENT_MAP: return "segment_map";
    case Entry::SEGMENT_UNMAP: return "segment_unmap";
    case Entry::SNAPSHOT: return "snapshot";
    case Entry::OOM: return "oom";
    default: return "other";
  }
}

static void print_settings() {
  using Settings = c10::CachingAllocator::AcceleratorAllocatorConfig;
  allocator::CUDAAllocatorConfig::instance();
  std::cout << "backend " << allocator::get()->name() << "\nexpandable_segments " << Settings::use_expandable_segments()
            << "\nlarge_segment " << Settings::large_segment_size() << "\nmax_split " << Settings::max_split_size()
            << "\nmax_non_split_rounding " << Settings::max_non_split_rounding_size() << "\ngarbage_collection "
            << Settings::garbage_collection_threshold() << "\ndivisions";
  for (const auto one : Settings::roundup_power2_divisions()) std::cout << ' ' << one;
  std::cout << '\n';
}

static int serve() {
  // else expandable segments ask the driver and NVML how memory could be shared with other processes
  allocator::CUDAAllocatorConfig::set_expandable_segments_handle_type(allocator::Expandable_Segments_Handle_Type::POSIX_FD);
  allocator::init(1);
  allocator::recordHistory(true, nullptr, 10'000'000, allocator::RecordContext::NEVER, true, {});
  std::unordered_map<long long, void*> live;
  std::string word;
  while (std::cin >> word) {
    long long id = 0;
    if (word == "alloc") {
      size_t bytes = 0;
      std::cin >> id >> bytes;
      try {
        live[id] = allocator::raw_alloc(bytes);
      } catch (const c10::OutOfMemoryError&) {
        live.erase(id);  // the history has an "oom" here
      }
    } else if (word == "free") {
      std::cin >> id;
      if (live.count(id)) allocator::raw_delete(live.at(id));
      live.erase(id);
    } else if (word == "empty") {
      allocator::emptyCache();
    } else if (word == "limit") {
      double fraction = 0;
      std::cin >> fraction;
      allocator::setMemoryFraction(fraction, 0);
    } else {
      std::cerr << "not a request: " << word << "\n";
      return 2;
    }
  }
  const auto taken = allocator::snapshot();
  for (const auto& entry : taken.device_traces.at(0))
    if (entry.action_ != allocator::TraceEntry::SNAPSHOT)
      std::cout << name_of(entry.action_) << ' ' << entry.addr_ << ' ' << entry.size_ << '\n';
  const auto counted = allocator::getDeviceStats(0);
  std::cout << "peak reserved " << counted.reserved_bytes.at(0).peak << '\n';
  return 0;
}

int main(int count, char** words) {
  try {
    if (count > 1 && !std::strcmp(words[1], "settings")) return print_settings(), 0;
    return serve();
  } catch (const std::exception& error) {  // of settings that are refused: c10::Error, or what the C++ library throws
    std::cerr << error.what() << '\n';
    return 3;
  }
}
