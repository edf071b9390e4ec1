#include "lane.h"

#include "js.h"

namespace rally {

namespace {
void close_lane(void* lane) {
  static_cast<Lane*>(lane)->close();
}
}  // namespace

Lane::Lane(napi_env env) : env(env) {
  napi_status status = napi_create_threadsafe_function(env, nullptr, nullptr, text_value(env, "rally lane"), 0, 1, nullptr,
                                                       nullptr, nullptr, settle, &settled);
  if (status != napi_ok) throw Failure("run", "no thread-safe function");
  // An idle lane keeps no process alive.
  napi_unref_threadsafe_function(env, settled);
  // After the function, because hooks are called in reverse: the thread must be gone before the function is.
  napi_add_env_cleanup_hook(env, close_lane, this);
  thread = std::thread([this] { work(); });
}

napi_value Lane::run(std::shared_ptr<Binding> binding, napi_value keep) {
  auto job = std::make_unique<Job>();
  job->binding = std::move(binding);
  job->lane = this;
  napi_value promise = nullptr;
  napi_create_reference(env, keep, 1, &job->keep);
  napi_create_promise(env, &job->deferred, &promise);
  if (num_pending++ == 0) napi_ref_threadsafe_function(env, settled);
  {
    std::lock_guard<std::mutex> lock(mutex);
    waiting.push_back(std::move(job));
  }
  wake.notify_one();
  return promise;
}

void Lane::close() {
  if (!thread.joinable()) return;
  {
    std::lock_guard<std::mutex> lock(mutex);
    closing = true;
  }
  wake.notify_one();
  thread.join();
  for (auto& job : waiting) napi_delete_reference(env, job->keep);
  waiting.clear();
  napi_remove_env_cleanup_hook(env, close_lane, this);
  napi_release_threadsafe_function(settled, napi_tsfn_release);
}

void Lane::work() {
  for (;;) {
    std::unique_ptr<Job> job;
    {
      std::unique_lock<std::mutex> lock(mutex);
      wake.wait(lock, [this] { return closing || !waiting.empty(); });
      if (closing) return;
      job = std::move(waiting.front());
      waiting.pop_front();
    }
    try {
      job->binding->run();
    } catch (const Failure& failure) {
      job->about = failure.about;
      job->error = failure.what();
    }
    // The queue has no limit, so this neither waits nor fails.
    napi_call_threadsafe_function(settled, job.release(), napi_tsfn_nonblocking);
  }
}

/** `env` is null when the environment goes while the answer was on its way: then its references have gone, too. */
void Lane::settle(napi_env env, napi_value, void*, void* data) {
  std::unique_ptr<Job> job(static_cast<Job*>(data));
  if (env == nullptr) return;
  napi_delete_reference(env, job->keep);
  Lane* lane = job->lane;
  if (--lane->num_pending == 0) napi_unref_threadsafe_function(env, lane->settled);
  // Before its promise is settled: who awaits it may release what was bound.
  job->binding.reset();
  if (job->about != nullptr) {
    napi_reject_deferred(env, job->deferred, error_value(env, job->about, job->error));
    return;
  }
  napi_value nothing = nullptr;
  napi_get_undefined(env, &nothing);
  napi_resolve_deferred(env, job->deferred, nothing);
}

}  // namespace rally
