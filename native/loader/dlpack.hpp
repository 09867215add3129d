// The part of the DLPack exchange interface (version 1, dmlc/dlpack) that we call:
// a look at a tensor's data, shape and strides without making a Python object.
#pragma once

#include <cstdint>

namespace hatchway::dlpack {

struct Device {
    std::int32_t type, id;
};
struct DataType {
    std::uint8_t code, bits;
    std::uint16_t lanes;
};
struct Tensor {
    void *data;
    Device device;
    std::int32_t ndim;
    DataType dtype;
    std::int64_t *shape;
    std::int64_t *strides;
    std::uint64_t byte_offset;
};
struct Header {
    std::uint32_t major, minor;
    Header *previous;
};
struct ExchangeApi {
    Header header;
    void *managed_tensor_allocator;
    void *managed_tensor_from_py_object_no_sync;
    void *managed_tensor_to_py_object_no_sync;
    int (*tensor_from_py_object_no_sync)(void *py_object, Tensor *out);
    void *current_work_stream;
};

inline constexpr std::int32_t kCpu = 1;
inline constexpr std::uint32_t kMajor = 1;

}  // namespace hatchway::dlpack
