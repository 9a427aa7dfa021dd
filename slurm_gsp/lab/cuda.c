/* A stand-in for libcuda.so.1: to be found by name and version, and to run one kernel, on the CPU.
 *
 * It serves a driver of its own VERSION only (803 otherwise), fails at cuInit with the code that
 * /run/lab-cuda-error holds, and computes wrong where /run/lab-cuda-wrong is.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef ROOT
#define ROOT "" /* the unit tests have their own /proc and /run */
#endif

enum { OK = 0, INVALID = 1, NOT_INITIALIZED = 3, NO_DEVICE = 100, NOT_FOUND = 500, DRIVER_MISMATCH = 803 };
enum { MAX_GPUS = 16 };

static char buses[MAX_GPUS][32], models[MAX_GPUS][96];
static int gpu_count, visible[MAX_GPUS], visible_count, initialised;

static int first_line(const char *path, char *line, size_t size) {
  FILE *f = fopen(path, "re");
  if (!f) return 0;
  int got = fgets(line, (int)size, f) != NULL;
  fclose(f);
  line[got ? strcspn(line, "\n") : 0] = 0;
  return got;
}

static int gpu_name(const struct dirent *entry) { return entry->d_name[0] != '.'; }

/* GPUs that came up: one that did not has no VBIOS to show. */
static void read_gpus(void) {
  struct dirent **list;
  int n = scandir(ROOT "/proc/driver/nvidia/gpus", &list, gpu_name, alphasort);
  gpu_count = 0;
  for (int i = 0; i < n; i++) {
    char path[512], line[256], model[96] = "";
    int up = 0;
    snprintf(path, sizeof path, ROOT "/proc/driver/nvidia/gpus/%s/information", list[i]->d_name);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f)) {
      char *value = line + strcspn(line, ":") + 1;
      value += strspn(value, " \t");
      value[strcspn(value, "\n")] = 0;
      if (strncmp(line, "Model:", 6) == 0) snprintf(model, sizeof model, "%.95s", value);
      if (strncmp(line, "Video BIOS:", 11) == 0) up = value[0] != '?';
    }
    if (f) fclose(f);
    if (up && gpu_count < MAX_GPUS) {
      snprintf(buses[gpu_count], sizeof buses[0], "%.31s", list[i]->d_name);
      memcpy(models[gpu_count++], model, sizeof model);
    }
    free(list[i]);
  }
  if (n >= 0) free(list);
}

static void choose_visible(void) {
  const char *wanted = getenv("CUDA_VISIBLE_DEVICES");
  visible_count = 0;
  if (!wanted) {
    for (; visible_count < gpu_count; visible_count++) visible[visible_count] = visible_count;
    return;
  }
  char *copy = strdup(wanted), *rest = copy, *word;
  while ((word = strsep(&rest, ",")) && *word) {
    int index = atoi(word);
    if (index < 0 || index >= gpu_count || visible_count == MAX_GPUS) break;
    visible[visible_count++] = index;
  }
  free(copy);
}

const char *lab_cuda_version(void) { return VERSION; }

int cuInit(unsigned flags) {
  char line[256], word[64];
  if (flags) return INVALID;
  if (first_line(ROOT "/run/lab-cuda-error", line, sizeof line)) return atoi(line);
  if (!first_line(ROOT "/proc/driver/nvidia/version", line, sizeof line)) return NO_DEVICE;
  snprintf(word, sizeof word, "  %s  ", VERSION);
  if (!strstr(line, word)) return DRIVER_MISMATCH;
  read_gpus();
  choose_visible();
  initialised = 1;
  return visible_count ? OK : NO_DEVICE;
}

int cuGetErrorName(int code, const char **name) {
  switch (code) {
    case NO_DEVICE: *name = "CUDA_ERROR_NO_DEVICE"; return OK;
    case 802: *name = "CUDA_ERROR_SYSTEM_NOT_READY"; return OK;
    case DRIVER_MISMATCH: *name = "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"; return OK;
    default: *name = NULL; return INVALID;
  }
}

int cuDeviceGetCount(int *count) {
  *count = visible_count;
  return initialised ? OK : NOT_INITIALIZED;
}

int cuDeviceGet(int *device, int ordinal) {
  *device = ordinal;
  return ordinal >= 0 && ordinal < visible_count ? OK : INVALID;
}

int cuDeviceGetName(char *name, int size, int device) {
  snprintf(name, (size_t)size, "%s", models[visible[device]]);
  return OK;
}

int cuDeviceGetPCIBusId(char *id, int size, int device) {
  snprintf(id, (size_t)size, "%s", buses[visible[device]]);
  return OK;
}

int cuCtxCreate_v2(void **context, unsigned flags, int device) {
  (void)flags;
  *context = buses[visible[device]];
  return OK;
}

int cuCtxDestroy_v2(void *context) { return context ? OK : INVALID; }
int cuCtxSynchronize(void) { return OK; }

/* The one kernel that it knows, by the name of its entry. */
int cuModuleLoadData(void **module, const char *ptx) {
  *module = (void *)ptx;
  return strstr(ptx, ".visible .entry gsp_axpy(") ? OK : INVALID;
}

int cuModuleUnload(void *module) { return module ? OK : INVALID; }

int cuModuleGetFunction(void **function, void *module, const char *name) {
  *function = module;
  return strcmp(name, "gsp_axpy") == 0 ? OK : NOT_FOUND;
}

int cuMemAlloc_v2(uint64_t *place, size_t size) {
  void *memory = malloc(size);
  *place = (uint64_t)(uintptr_t)memory;
  return memory ? OK : 2;
}

int cuMemFree_v2(uint64_t place) {
  free((void *)(uintptr_t)place);
  return OK;
}

int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t size) {
  memcpy((void *)(uintptr_t)to, from, size);
  return OK;
}

int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t size) {
  memcpy(to, (void *)(uintptr_t)from, size);
  return OK;
}

int cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                   unsigned block_y, unsigned block_z, unsigned shared, void *stream, void **parameters, void **extra) {
  (void)shared, (void)stream, (void)extra;
  if (!function || grid_y * grid_z * block_y * block_z != 1) return INVALID;
  const float *x = (const float *)(uintptr_t) * (uint64_t *)parameters[0];
  float *y = (float *)(uintptr_t) * (uint64_t *)parameters[1], a = *(float *)parameters[2];
  uint32_t n = *(uint32_t *)parameters[3];
  for (uint64_t i = 0; i < (uint64_t)grid_x * block_x && i < n; i++) y[i] = a * x[i] + y[i];
  if (n && access(ROOT "/run/lab-cuda-wrong", F_OK) == 0) y[n / 2] += 1;
  return OK;
}
