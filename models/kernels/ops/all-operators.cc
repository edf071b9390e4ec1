#include "operator.h"

namespace rally {

std::vector<const std::vector<Signature>*> operators() {
  return {&attentionOperators(), &expertOperators(), &headOperators()};
}

}  // namespace rally
