// Shapes as texts, such as "T num_heads*head_dim" or "2*I/128 K/128 128 128": checked against the tensors of a run, and solved for the
// names in them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace rally {

/// Names with their values: dimensions that tensors have told, and integer attributes.
class Sizes {
 public:
  std::optional<int64_t> find(const std::string& name) const;
  void set(const std::string& name, int64_t value) { values_.emplace_back(name, value); }
  /// "T = 4, K = 7168"
  std::string text() const;

 private:
  std::vector<std::pair<std::string, int64_t>> values_;
};

/// One dimension: product of names and numbers, divided by a number.
struct Dimension {
  explicit Dimension(const std::string& text);

  /// Empty if a name in it is not known; -1 if the division has a rest.
  std::optional<int64_t> evaluate(const Sizes& sizes) const;
  /// Whether `found` is what it is; sets the name in it that is not known yet, if there is one only.
  bool match(int64_t found, Sizes& sizes) const;

  std::string text;

 private:
  std::vector<std::string> names_;
  int64_t factor_ = 1;
  int64_t divisor_ = 1;
};

using Shape = std::vector<Dimension>;

Shape parseShape(const char* text);
/// False leaves in `sizes` what has been matched until then.
bool matchShape(const Shape& shape, const std::vector<int64_t>& found, Sizes& sizes);
/// "[K/128, T] = [56, 4]", or "[K/128, T]" if not all of it is known.
std::string shapeText(const Shape& shape, const Sizes& sizes);
std::string shapeText(const std::vector<int64_t>& dims);

}  // namespace rally
