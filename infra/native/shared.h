#pragma once

#include <cstddef>

namespace rally {

/** A nameless file in memory, `bytes` long and of zeros, that nobody can make smaller: its descriptor, for others to open. */
int create_shared(size_t bytes);
/** Takes memory for a part of it, so that no access there can fail for want of some. */
void allocate_shared(int file, size_t offset, size_t bytes);
/** The calling thread, as /proc knows it. */
int thread_id();

/** All of such a file, for reading and writing by this process and, at the same time, by others. */
class SharedMap {
 public:
  /** Throws unless the file is `bytes` long and stays so: what is mapped beyond a file's end kills whoever touches it. */
  SharedMap(int file, size_t bytes);
  ~SharedMap();
  SharedMap(const SharedMap&) = delete;
  SharedMap& operator=(const SharedMap&) = delete;

  void* data() const { return memory; }
  size_t bytes() const { return num_bytes; }

 private:
  void* memory;
  size_t num_bytes;
};

}  // namespace rally
