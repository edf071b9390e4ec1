#include "operator.h"

namespace rally {

const char* const kExecutionProvider = "CUDAExecutionProvider";

}  // namespace rally
