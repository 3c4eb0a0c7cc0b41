// What worker.c and load.c share: the clock, growing buffers, and a little searching.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

typedef struct { char *data; size_t len, room; } buffer;

static inline uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000ull + t.tv_nsec;
}

static inline void grow(buffer *b, size_t more) {
  if (b->len + more <= b->room) return;
  b->room = (b->len + more) * 2;
  b->data = realloc(b->data, b->room);
}

static inline void drop(buffer *b, size_t n) {
  memmove(b->data, b->data + n, b->len - n);
  b->len -= n;
}

// The number after "key": in a JSON text, or `otherwise`.
static inline long number_after(const char *text, size_t n, const char *key, long otherwise) {
  char quoted[64];
  int k = snprintf(quoted, sizeof quoted, "\"%s\"", key);
  const char *at = memmem(text, n, quoted, k), *end = text + n;
  if (!at) return otherwise;
  for (at += k; at < end && (*at == ' ' || *at == ':'); at++) {}
  return at < end && *at >= '0' && *at <= '9' ? strtol(at, 0, 10) : otherwise;
}

// The value of a header in [head, end), or `otherwise`.
static inline long header_number(const char *head, const char *end, const char *name, long otherwise) {
  size_t k = strlen(name);
  for (const char *line = head; line < end;) {
    const char *next = memchr(line, '\n', end - line);
    if (!strncasecmp(line, name, k)) return strtol(line + k, 0, 10);
    if (!next) break;
    line = next + 1;
  }
  return otherwise;
}

static inline struct sockaddr_in loopback(int port) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  return a;
}
