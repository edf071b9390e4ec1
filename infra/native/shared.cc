#include "shared.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "ort.h"

namespace rally {

namespace {

void check_system(bool is_good, const char* what, int error) {
  if (!is_good) throw Failure("run", std::string(what) + ": " + std::strerror(error));
}

}  // namespace

int create_shared(size_t bytes) {
  const int file = memfd_create("rally-shared", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  check_system(file >= 0, "memfd_create", errno);
  // The last seal: nobody may add one that takes away the right to write.
  const bool is_good = ftruncate(file, static_cast<off_t>(bytes)) == 0 &&
                       fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0;
  const int error = errno;
  if (!is_good) close(file);
  check_system(is_good, "a sealed file in memory", error);
  return file;
}

void allocate_shared(int file, size_t offset, size_t bytes) {
  const int error = posix_fallocate(file, static_cast<off_t>(offset), static_cast<off_t>(bytes));
  check_system(error == 0, "posix_fallocate", error);
}

int thread_id() {
  return static_cast<int>(syscall(SYS_gettid));
}

SharedMap::SharedMap(int file, size_t bytes) : num_bytes(bytes) {
  struct stat found = {};
  check_system(fstat(file, &found) == 0, "fstat", errno);
  const int seals = fcntl(file, F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || static_cast<size_t>(found.st_size) != bytes) {
    throw Failure("run", "a file of another kind");
  }
  memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  check_system(memory != MAP_FAILED, "mmap", errno);
}

SharedMap::~SharedMap() {
  munmap(memory, num_bytes);
}

}  // namespace rally
