/* A stand-in for libnvidia-ml.so.1: it answers from /proc and /sys what a driver of VERSION would. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, NO_DRIVER = 9, MISMATCH = 18 };
enum { MAX_GPUS = 16, PATH = 512 };

struct gpu {
  char bus[32], name[96], uuid[96], vbios[32], gsp[32];
};

typedef struct {
  char bus_id_legacy[16];
  unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
  char bus_id[32];
} pci_info;

static struct gpu gpus[MAX_GPUS];
static unsigned gpu_count;
static int users;
static char driver[64];

static void append(const char *path, const char *text) {
  int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return;
  if (write(fd, text, strlen(text)) < 0) { /* nowhere to say it */ }
  close(fd);
}

static int first_line(const char *path, char *line, size_t size) {
  FILE *f = fopen(path, "re");
  if (!f) return 0;
  int got = fgets(line, (int)size, f) != NULL;
  fclose(f);
  line[got ? strcspn(line, "\n") : 0] = 0;
  return got;
}

/* The module's version: the first word of the NVRM line that starts with three digits and a dot. */
static int module_version(char *out, size_t size) {
  char line[256], *word, *rest = line;
  if (!first_line("/proc/driver/nvidia/version", line, sizeof line)) return 0;
  while ((word = strsep(&rest, " ")))
    if (strspn(word, "0123456789") == 3 && word[3] == '.') {
      snprintf(out, size, "%s", word);
      return 1;
    }
  return 0;
}

static void kernel_log(const char *text) {
  char line[2048], record[2300];
  long sequence = 0, level = 0, booted = 0;
  FILE *f = fopen("/dev/kmsg", "re");
  if (f) {
    while (fgets(line, sizeof line, f))
      if (line[0] != ' ') sscanf(line, "%ld,%ld,", &level, &sequence);
    fclose(f);
  }
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  if (first_line("/run/lab-boot", line, sizeof line)) booted = atol(line);
  snprintf(record, sizeof record, "3,%ld,%ld,-;%s\n", sequence + 1,
           (long)now.tv_sec * 1000000 + now.tv_nsec / 1000 - booted, text);
  append("/dev/kmsg", record);
}

static void mismatch(void) {
  char name[64] = "?", text[1024];
  first_line("/proc/self/comm", name, sizeof name);
  if (atoi(driver) >= 575)
    snprintf(text, sizeof text,
             "NVRM: API mismatch: the client '%s' (pid %d)\\x0aNVRM: has the version %s, but this kernel module has"
             "\\x0aNVRM: the version %s.  Please make sure that this\\x0aNVRM: kernel module and all NVIDIA driver"
             " components\\x0aNVRM: have the same version.",
             name, getpid(), VERSION, driver);
  else
    snprintf(text, sizeof text,
             "NVRM: API mismatch: the client has the version %s, but\\x0aNVRM: this kernel module has the version %s."
             "  Please\\x0aNVRM: make sure that this kernel module and all NVIDIA driver\\x0aNVRM: components have the"
             " same version.",
             VERSION, driver);
  kernel_log(text);
}

static void field(const char *line, const char *key, char *out, size_t size) {
  size_t length = strlen(key);
  if (strncmp(line, key, length) != 0) return;
  line += length + strspn(line + length, " \t");
  snprintf(out, size, "%.*s", (int)strcspn(line, "\n"), line);
}

static int gpu_name(const struct dirent *entry) { return entry->d_name[0] != '.'; }

static void read_gpus(void) {
  struct dirent **list;
  int n = scandir("/proc/driver/nvidia/gpus", &list, gpu_name, alphasort);
  gpu_count = 0;
  for (int i = 0; i < n; i++) {
    char path[PATH], line[256];
    struct gpu gpu = {0};
    snprintf(path, sizeof path, "/proc/driver/nvidia/gpus/%s/information", list[i]->d_name);
    snprintf(gpu.bus, sizeof gpu.bus, "%.31s", list[i]->d_name);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f)) {
      field(line, "Model:", gpu.name, sizeof gpu.name);
      field(line, "GPU UUID:", gpu.uuid, sizeof gpu.uuid);
      field(line, "Video BIOS:", gpu.vbios, sizeof gpu.vbios);
      field(line, "GPU Firmware:", gpu.gsp, sizeof gpu.gsp);
    }
    if (f) fclose(f);
    free(list[i]);
    if (gpu.vbios[0] && gpu.vbios[0] != '?' && gpu_count < MAX_GPUS) gpus[gpu_count++] = gpu;
  }
  if (n >= 0) free(list);
}

static void killed(int number) {
  char text[80];
  snprintf(text, sizeof text, "pid %d got signal %d inside nvmlInit\n", getpid(), number);
  append("/run/lab-nvml-killed", text);
  _exit(128 + number);
}

static void hang(void) {
  char text[32];
  signal(SIGTERM, killed);
  signal(SIGINT, killed);
  signal(SIGHUP, killed);
  snprintf(text, sizeof text, "%d\n", getpid());
  append("/run/lab-nvml-hung.pid", text);
  while (access("/run/lab-nvml-hang", F_OK) == 0) usleep(200000);
}

int nvmlInitWithFlags(unsigned flags) {
  (void)flags;
  if (access("/run/lab-nvml-hang", F_OK) == 0) hang();
  if (access("/run/lab-nvml-crash", F_OK) == 0) abort();
  if (!module_version(driver, sizeof driver)) return NO_DRIVER;
  if (strcmp(driver, VERSION) != 0) {
    mismatch();
    return MISMATCH;
  }
  read_gpus();
  users++;
  return OK;
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlInit(void) { return nvmlInitWithFlags(0); }

int nvmlShutdown(void) {
  if (!users) return UNINITIALIZED;
  users--;
  return OK;
}

const char *nvmlErrorString(int code) {
  switch (code) {
    case OK: return "Success";
    case UNINITIALIZED: return "Uninitialized";
    case INVALID: return "Invalid Argument";
    case NOT_SUPPORTED: return "Not Supported";
    case NOT_FOUND: return "Not Found";
    case NO_DRIVER: return "Driver Not Loaded";
    case MISMATCH: return "Driver/library version mismatch";
    default: return "Unknown Error";
  }
}

static int answer(char *out, unsigned size, const char *text) {
  return (unsigned)snprintf(out, size, "%s", text) < size ? OK : 7;
}

/* 12080 is 12.8: the CUDA version that came with each of the lab's branches. */
int nvmlSystemGetCudaDriverVersion_v2(int *version) {
  *version = atoi(VERSION) >= 580 ? 13000 : 12080;
  return OK;
}

int nvmlSystemGetDriverVersion(char *out, unsigned size) { return users ? answer(out, size, driver) : UNINITIALIZED; }
int nvmlSystemGetNVMLVersion(char *out, unsigned size) {
  return answer(out, size, (atoi(VERSION) >= 580 ? "13." VERSION : "12." VERSION));
}

int nvmlDeviceGetCount_v2(unsigned *count) {
  if (!users) return UNINITIALIZED;
  *count = gpu_count;
  return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct gpu **device) {
  if (!users) return UNINITIALIZED;
  if (index >= gpu_count) return INVALID;
  *device = &gpus[index];
  return OK;
}

int nvmlDeviceGetName(struct gpu *gpu, char *out, unsigned size) { return answer(out, size, gpu->name); }
int nvmlDeviceGetUUID(struct gpu *gpu, char *out, unsigned size) { return answer(out, size, gpu->uuid); }
int nvmlDeviceGetVbiosVersion(struct gpu *gpu, char *out, unsigned size) {
  char text[32];
  snprintf(text, sizeof text, "%s", gpu->vbios);
  for (char *c = text; *c; c++)
    if (*c >= 'a' && *c <= 'f') *c -= 32;
  return answer(out, size, text);
}
int nvmlDeviceGetGspFirmwareVersion(struct gpu *gpu, char *out) {
  return strcmp(gpu->gsp, "N/A") == 0 ? NOT_SUPPORTED : answer(out, 64, gpu->gsp);
}
int nvmlDeviceGetPersistenceMode(struct gpu *gpu, unsigned *mode) {
  (void)gpu;
  *mode = access("/run/lab-no-persistence", F_OK) != 0;
  return OK;
}

int nvmlDeviceGetPciInfo_v3(struct gpu *gpu, pci_info *info) {
  memset(info, 0, sizeof *info);
  sscanf(gpu->bus, "%x:%x:%x", &info->domain, &info->bus, &info->device);
  snprintf(info->bus_id_legacy, sizeof info->bus_id_legacy, "%04X:%02X:%02X.0", info->domain & 0xffff,
           info->bus & 0xff, info->device & 0xff);
  snprintf(info->bus_id, sizeof info->bus_id, "%08X:%02X:%02X.0", info->domain, info->bus & 0xff, info->device & 0xff);
  info->pci_device_id = 0x233010de;
  return OK;
}

static int link_value(struct gpu *gpu, const char *name, char *line, size_t size) {
  char path[PATH];
  snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/%s", gpu->bus, name);
  return first_line(path, line, size) ? OK : NOT_SUPPORTED;
}

static int link_width(struct gpu *gpu, const char *name, unsigned *out) {
  char line[64];
  int status = link_value(gpu, name, line, sizeof line);
  if (status == OK) *out = (unsigned)atoi(line);
  return status;
}

int nvmlDeviceGetCurrPcieLinkWidth(struct gpu *gpu, unsigned *out) { return link_width(gpu, "current_link_width", out); }
int nvmlDeviceGetMaxPcieLinkWidth(struct gpu *gpu, unsigned *out) { return link_width(gpu, "max_link_width", out); }
int nvmlDeviceGetCurrPcieLinkGeneration(struct gpu *gpu, unsigned *out) {
  char line[64];
  int status = link_value(gpu, "current_link_speed", line, sizeof line);
  double speed = status == OK ? atof(line) : 0;
  *out = speed >= 64 ? 6 : speed >= 32 ? 5 : speed >= 16 ? 4 : speed >= 8 ? 3 : speed >= 5 ? 2 : 1;
  return status;
}

int nvmlDeviceGetMaxPcieLinkGeneration(struct gpu *gpu, unsigned *out) {
  (void)gpu;
  *out = 5;
  return OK;
}

int nvmlDeviceGetInforomImageVersion(struct gpu *gpu, char *out, unsigned size) {
  (void)gpu;
  return answer(out, size, "G520.0200.00.05");
}

/* Boards of this age remap rows; /run/lab-remap-pending and /run/lab-remap-failed ask for trouble. */
int nvmlDeviceGetRetiredPagesPendingStatus(struct gpu *gpu, int *pending) {
  (void)gpu, (void)pending;
  return NOT_SUPPORTED;
}

int nvmlDeviceGetRemappedRows(struct gpu *gpu, unsigned *corrected, unsigned *lost, unsigned *pending, unsigned *failed) {
  (void)gpu;
  *corrected = *lost = 0;
  *pending = access("/run/lab-remap-pending", F_OK) == 0;
  *failed = access("/run/lab-remap-failed", F_OK) == 0;
  return OK;
}
