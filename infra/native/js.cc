#include "js.h"

namespace rally {

std::string Arguments::to_text(napi_value value) const {
  size_t length = 0;
  if (napi_get_value_string_utf8(env, value, nullptr, 0, &length) != napi_ok) throw Failure("run", "not a text");
  std::string text(length, '\0');
  napi_get_value_string_utf8(env, value, text.data(), length + 1, &length);
  return text;
}

int32_t Arguments::integer(size_t i) const {
  int32_t value = 0;
  if (napi_get_value_int32(env, values[i], &value) != napi_ok) throw Failure("run", "not an integer");
  return value;
}

size_t Arguments::size(size_t i) const {
  int64_t value = 0;
  if (napi_get_value_int64(env, values[i], &value) != napi_ok || value < 0) throw Failure("run", "not a size");
  return static_cast<size_t>(value);
}

std::vector<napi_value> Arguments::elements(size_t i) const {
  uint32_t length = 0;
  if (napi_get_array_length(env, values[i], &length) != napi_ok) throw Failure("run", "not an array");
  std::vector<napi_value> result(length);
  for (uint32_t at = 0; at < length; at++) napi_get_element(env, values[i], at, &result[at]);
  return result;
}

std::vector<std::string> Arguments::texts(size_t i) const {
  std::vector<std::string> result;
  for (napi_value element : elements(i)) result.push_back(to_text(element));
  return result;
}

std::vector<int64_t> Arguments::integers(size_t i) const {
  std::vector<int64_t> result;
  for (napi_value element : elements(i)) napi_get_value_int64(env, element, &result.emplace_back());
  return result;
}

Memory memory_of(napi_env env, napi_value typed_array) {
  static char nothing[8];
  napi_typedarray_type type;
  size_t length = 0;
  void* data = nullptr;
  if (napi_get_typedarray_info(env, typed_array, &type, &length, &data, nullptr, nullptr) != napi_ok) {
    throw Failure("run", "not a typed array");
  }
  size_t width = 1;
  switch (type) {
    case napi_int16_array:
    case napi_uint16_array:
      width = 2;
      break;
    case napi_int32_array:
    case napi_uint32_array:
    case napi_float32_array:
      width = 4;
      break;
    case napi_float64_array:
    case napi_bigint64_array:
    case napi_biguint64_array:
      width = 8;
      break;
    default:
      break;
  }
  return {data == nullptr ? nothing : data, length * width};
}

napi_value text_value(napi_env env, const std::string& text) {
  napi_value value = nullptr;
  napi_create_string_utf8(env, text.data(), text.size(), &value);
  return value;
}

napi_value error_value(napi_env env, const char* about, const std::string& text) {
  napi_value error = nullptr;
  napi_create_error(env, nullptr, text_value(env, text), &error);
  napi_set_named_property(env, error, "about", text_value(env, about));
  return error;
}

}  // namespace rally
