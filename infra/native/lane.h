#pragma once

#include <node_api.h>

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "binding.h"

namespace rally {

/**
 * A thread that runs bindings one after the other while JavaScript goes on. CUDA graphs and streams belong to a thread, so what is
 * captured on a lane is replayed there. All but `work` happens on the thread of the environment that made it.
 */
class Lane {
 public:
  explicit Lane(napi_env env);
  ~Lane() { close(); }
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  /** A promise. `keep` stays alive until it is settled: it holds the memory that the binding's tensors lie over. */
  napi_value run(std::shared_ptr<Binding> binding, napi_value keep);
  /** Waits for the run that is under way; those that wait are not begun, and their promises stay pending. Safe to call twice. */
  void close();

 private:
  struct Job {
    std::shared_ptr<Binding> binding;
    Lane* lane;
    napi_ref keep;
    napi_deferred deferred;
    const char* about = nullptr;
    std::string error;
  };

  void work();
  static void settle(napi_env env, napi_value, void*, void* data);

  napi_env env;
  napi_threadsafe_function settled = nullptr;
  size_t num_pending = 0;
  std::mutex mutex;
  std::condition_variable wake;
  std::deque<std::unique_ptr<Job>> waiting;
  bool closing = false;
  std::thread thread;
};

}  // namespace rally
