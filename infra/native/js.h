#pragma once

#include <node_api.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ort.h"

namespace rally {

constexpr size_t kMostArguments = 40;

/** The arguments of a call from JavaScript. What is of another type than asked for is a mistake of our own TypeScript. */
class Arguments {
 public:
  Arguments(napi_env env, napi_callback_info info) : env(env) {
    napi_get_cb_info(env, info, &count, values, nullptr, nullptr);
    if (count > kMostArguments) throw Failure("run", "too many tensors");
  }

  napi_value operator[](size_t i) const { return values[i]; }
  std::string text(size_t i) const { return to_text(values[i]); }
  int32_t integer(size_t i) const;
  /** A number of bytes, which may be beyond 32 bits. */
  size_t size(size_t i) const;
  std::vector<std::string> texts(size_t i) const;
  std::vector<int64_t> integers(size_t i) const;

  /** The object behind a handle; throws once it has been released. */
  template <typename T>
  const std::shared_ptr<T>& object(size_t i) const {
    const auto& held = *slot<T>(i);
    if (held == nullptr) throw Failure("run", "used after release");
    return held;
  }

  /** An array of handles. */
  template <typename T>
  std::vector<std::shared_ptr<T>> objects(size_t i) const {
    std::vector<std::shared_ptr<T>> result;
    for (napi_value element : elements(i)) {
      void* data = nullptr;
      if (napi_get_value_external(env, element, &data) != napi_ok) throw Failure("run", "not a handle");
      result.push_back(*static_cast<std::shared_ptr<T>*>(data));
      if (result.back() == nullptr) throw Failure("run", "used after release");
    }
    return result;
  }

  template <typename T>
  std::shared_ptr<T>* slot(size_t i) const {
    void* data = nullptr;
    if (napi_get_value_external(env, values[i], &data) != napi_ok) throw Failure("run", "not a handle");
    return static_cast<std::shared_ptr<T>*>(data);
  }

  napi_env env;
  size_t count = kMostArguments;

 private:
  std::string to_text(napi_value value) const;
  std::vector<napi_value> elements(size_t i) const;
  napi_value values[kMostArguments] = {};
};

/** A typed array's memory. An empty one has an address, too. */
struct Memory {
  void* data;
  size_t bytes;
};
Memory memory_of(napi_env env, napi_value typed_array);

template <typename T>
napi_value handle(napi_env env, std::shared_ptr<T> object) {
  auto* slot = new std::shared_ptr<T>(std::move(object));
  napi_value result = nullptr;
  napi_create_external(
      env, slot, [](napi_env, void* data, void*) { delete static_cast<std::shared_ptr<T>*>(data); }, nullptr, &result);
  return result;
}

napi_value text_value(napi_env env, const std::string& text);
napi_value error_value(napi_env env, const char* about, const std::string& text);

/** A function of the addon: a Failure becomes an Error with the property `about`. */
template <napi_value (*F)(const Arguments&)>
napi_value guarded(napi_env env, napi_callback_info info) {
  try {
    return F(Arguments(env, info));
  } catch (const Failure& failure) {
    napi_throw(env, error_value(env, failure.about, failure.what()));
  } catch (const std::exception& failure) {
    napi_throw(env, error_value(env, "run", failure.what()));
  }
  return nullptr;
}

}  // namespace rally
