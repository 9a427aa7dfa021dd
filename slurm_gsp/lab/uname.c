/* Preloaded in a node: uname(2) cannot be given another release, so uname(3) reads it where the node keeps it. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

int uname(struct utsname *name) {
  int status = (int)syscall(SYS_uname, name);
  int fd = status == 0 ? open("/proc/sys/kernel/osrelease", O_RDONLY | O_CLOEXEC) : -1;
  if (fd >= 0) {
    ssize_t n = read(fd, name->release, sizeof name->release - 1);
    close(fd);
    if (n > 0) name->release[n - (name->release[n - 1] == '\n')] = 0;
  }
  return status;
}
