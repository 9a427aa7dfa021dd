/* A stand-in for nvidia-smi: the driver's version, the GPUs, and the real tool's words and codes on failure. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

typedef int (*init_fn)(void);
typedef int (*count_fn)(unsigned *);
typedef int (*handle_fn)(unsigned, void **);
typedef int (*text_fn)(void *, char *, unsigned);
typedef int (*version_fn)(char *, unsigned);

/* All GPUs of the lab hang together by NVLink, and to one socket. */
static void topology(unsigned count) {
  printf("\t\033[4m"); /* the real tool underlines its header, to a pipe as well */
  for (unsigned i = 0; i < count; i++) printf("GPU%u\t", i);
  puts("CPU Affinity\tNUMA Affinity\tGPU NUMA ID\033[0m");
  for (unsigned row = 0; row < count; row++) {
    printf("GPU%u", row);
    for (unsigned i = 0; i < count; i++) printf("\t%s", i == row ? " X " : "NV18");
    puts("\t0-3\t0\t\tN/A");
  }
  puts("\nLegend:\n\n  X    = Self\n  NV#  = Connection traversing a bonded set of # NVLinks");
}

int main(int argc, char **argv) {
  void *lib = dlopen("libnvidia-ml.so.1", RTLD_NOW), *device;
  if (!lib) {
    puts("NVIDIA-SMI couldn't find libnvidia-ml.so library in your system. Please make sure that the NVIDIA Display "
         "Driver is properly installed and present in your system.");
    return 12;
  }
  char text[128], uuid[128];
  int status = ((init_fn)dlsym(lib, "nvmlInit_v2"))();
  if (status == 18) {
    ((version_fn)dlsym(lib, "nvmlSystemGetNVMLVersion"))(text, sizeof text);
    char *version = strchr(text, '.') + 1, *second = strchr(version, '.');
    char *third = second ? strchr(second + 1, '.') : NULL;
    if (third) *third = 0;
    printf("Failed to initialize NVML: Driver/library version mismatch\nNVML library version: %s\n", version);
    return 18;
  }
  if (status) {
    puts("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest "
         "NVIDIA driver is installed and running.");
    return 9;
  }
  unsigned count = 0;
  ((count_fn)dlsym(lib, "nvmlDeviceGetCount_v2"))(&count);
  ((version_fn)dlsym(lib, "nvmlSystemGetDriverVersion"))(text, sizeof text);
  if (!count) {
    puts("No devices were found");
    return 6;
  }
  if (argc == 3 && strcmp(argv[1], "topo") == 0 && strcmp(argv[2], "-m") == 0) {
    topology(count);
    return 0;
  }
  if (argc < 2 || strcmp(argv[1], "-L") != 0) printf("NVIDIA-SMI %s  Driver Version: %s\n", VERSION, text);
  for (unsigned i = 0; i < count; i++) {
    ((handle_fn)dlsym(lib, "nvmlDeviceGetHandleByIndex_v2"))(i, &device);
    ((text_fn)dlsym(lib, "nvmlDeviceGetName"))(device, text, sizeof text);
    ((text_fn)dlsym(lib, "nvmlDeviceGetUUID"))(device, uuid, sizeof uuid);
    printf("GPU %u: %s (UUID: %s)\n", i, text, uuid);
  }
  return 0;
}
