#include "shape.h"

#include <cctype>
#include <sstream>

namespace rally {

std::optional<int64_t> Sizes::find(const std::string& name) const {
  for (const auto& [known, value] : values_) {
    if (known == name) return value;
  }
  return std::nullopt;
}

std::string Sizes::text() const {
  std::string text;
  for (const auto& [name, value] : values_) text += (text.empty() ? "" : ", ") + name + " = " + std::to_string(value);
  return text;
}

Dimension::Dimension(const std::string& written) : text(written) {
  const size_t slash = text.find('/');
  if (slash != std::string::npos) divisor_ = std::stoll(text.substr(slash + 1));
  std::istringstream factors(text.substr(0, slash));
  for (std::string factor; std::getline(factors, factor, '*');) {
    if (std::isdigit(static_cast<unsigned char>(factor[0]))) {
      factor_ *= std::stoll(factor);
    } else {
      names_.push_back(factor);
    }
  }
}

std::optional<int64_t> Dimension::evaluate(const Sizes& sizes) const {
  int64_t product = factor_;
  for (const auto& name : names_) {
    const auto value = sizes.find(name);
    if (!value) return std::nullopt;
    product *= *value;
  }
  return product % divisor_ == 0 ? product / divisor_ : -1;
}

bool Dimension::match(int64_t found, Sizes& sizes) const {
  int64_t known = factor_;
  const std::string* unknown = nullptr;
  for (const auto& name : names_) {
    if (const auto value = sizes.find(name)) {
      known *= *value;
    } else if (unknown == nullptr) {
      unknown = &name;
    } else {
      return true;
    }
  }
  if (unknown == nullptr) return known % divisor_ == 0 && known / divisor_ == found;
  if (known == 0 || found * divisor_ % known != 0) return false;
  sizes.set(*unknown, found * divisor_ / known);
  return true;
}

Shape parseShape(const char* text) {
  Shape shape;
  std::istringstream words(text);
  for (std::string word; words >> word;) shape.emplace_back(word);
  return shape;
}

bool matchShape(const Shape& shape, const std::vector<int64_t>& found, Sizes& sizes) {
  if (shape.size() != found.size()) return false;
  for (size_t i = 0; i < shape.size(); i++) {
    // Below zero: not known before a run.
    if (found[i] >= 0 && !shape[i].match(found[i], sizes)) return false;
  }
  return true;
}

std::string shapeText(const Shape& shape, const Sizes& sizes) {
  std::string names, values;
  bool isKnown = true;
  for (const auto& dimension : shape) {
    names += (names.empty() ? "" : ", ") + dimension.text;
    const auto value = dimension.evaluate(sizes);
    isKnown = isKnown && value && *value >= 0;
    values += (values.empty() ? "" : ", ") + std::to_string(value.value_or(-1));
  }
  return "[" + names + "]" + (isKnown && names != values ? " = [" + values + "]" : "");
}

std::string shapeText(const std::vector<int64_t>& dims) {
  std::string text;
  for (int64_t dim : dims) text += (text.empty() ? "" : ", ") + (dim < 0 ? std::string("?") : std::to_string(dim));
  return "[" + text + "]";
}

}  // namespace rally
