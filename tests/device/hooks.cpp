// What torch asks of a CUDA device below Python, answered as by a machine that has one and nothing to do on it.
//
// Two things are registered where torch's CUDA part would register its own: a guard (which device is the current one,
// which stream) and hooks (how many devices there are, random numbers). Neither computes: numbers are the CPU's.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Generator.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {

using c10::Device;
using c10::DeviceIndex;
using c10::DeviceType;
using c10::Stream;

const Device only(DeviceType::CUDA, 0);

Stream stream() {
  return Stream(Stream::DEFAULT, only);
}

struct Guard final : c10::impl::NoOpDeviceGuardImpl<DeviceType::CUDA> {
  Device exchangeDevice(Device) const override { return only; }
  Device getDevice() const override { return only; }
  Stream getStream(Device) const noexcept override { return stream(); }
  Stream getDefaultStream(Device) const override { return stream(); }
  Stream getNewStream(Device, int) const override { return stream(); }
  Stream exchangeStream(Stream) const noexcept override { return stream(); }
  void record(void**, const Stream&, const DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const DeviceIndex) const noexcept override {}
};

C10_REGISTER_GUARD_IMPL(CUDA, Guard);

// A generator of the CPU's numbers that says it is the device's. Kernels of the CPU refuse it: its state is lent to one
// of theirs (devices.py).
struct Numbers final : at::CPUGeneratorImpl {
  explicit Numbers(uint64_t seed) : at::CPUGeneratorImpl(seed) {
    device_ = only;
    key_set_ = c10::DispatchKeySet(c10::DispatchKey::CUDA);
  }
};

struct Hooks final : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  int getNumGPUs() const override { return 1; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex current_device() const override { return 0; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(DeviceIndex) const override {}
  DeviceIndex exchangeDevice(DeviceIndex) const override { return 0; }
  DeviceIndex maybeExchangeDevice(DeviceIndex) const override { return 0; }
  void deviceSynchronize(DeviceIndex) const override {}

  at::Generator getNewGenerator(DeviceIndex) const override {
    return at::make_generator<Numbers>(c10::default_rng_seed_val);
  }

  const at::Generator& getDefaultGenerator(DeviceIndex) const override {
    static const at::Generator one = at::make_generator<Numbers>(c10::default_rng_seed_val);
    return one;
  }
};

} // namespace

namespace at {
using CUDAHooks = ::Hooks; // the name that torch looks up
REGISTER_CUDA_HOOKS(CUDAHooks)
} // namespace at
