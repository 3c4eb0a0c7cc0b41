// Load on one address: load PORT -c connections -d seconds [-w warm-up seconds] [-r requests/s, else as fast as answers come]
//                      [-s stream] [-m max_tokens] [-b prompt bytes] [-g microseconds between two tokens]
// Prints one JSON object. With -r, latency counts from the time at which a request was due, not from when it could be sent.
#include "http.h"

typedef struct conn {
  int fd, busy, head, chunked, status, done;
  long left;              // bytes of the body, or of the present chunk
  uint64_t due, first;
  buffer in, out;
} conn;

static int port, connections = 32, stream, tokens = 1, prompt_bytes = 1024, events;
static long gap, errors, seen_events;
static double seconds = 2, warm = 0.5, rate;
static uint64_t begun, counted_from, counted_to, counted, all;
static buffer text;
static double *latency, *ttft, *travel;
static size_t latencies, ttfts, travels;
#define MOST 4000000

static void connect_to(conn *c) {
  int one = 1;
  if (c->fd > 0) close(c->fd);
  c->fd = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in address = loopback(port);
  if (connect(c->fd, (void *)&address, sizeof address)) { perror("load"); exit(1); }
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
  epoll_ctl(events, EPOLL_CTL_ADD, c->fd, &e);
}

static void ask(conn *c, uint64_t due) {
  c->busy = c->head = 1;
  c->chunked = c->status = c->done = 0;
  c->in.len = 0;
  c->first = 0;
  c->due = due;
  for (size_t sent = 0; sent < text.len;) {
    ssize_t n = send(c->fd, text.data + sent, text.len - sent, MSG_NOSIGNAL);
    if (n <= 0) { errors++; connect_to(c); c->busy = 0; return; }
    sent += n;
  }
}

static void finished(conn *c) {
  uint64_t now = now_ns();
  c->busy = 0;
  all++;
  if (c->status != 200) errors++;
  if (now < counted_from || now > counted_to) return;
  counted++;
  if (latencies < MOST) latency[latencies++] = (now - c->due) / 1e3;
  if (c->first && ttfts < MOST) ttft[ttfts++] = (c->first - c->due) / 1e3;
}

// Count the events in a piece of body and how long each was on its way (its id is the time at which it was sent).
static void look(conn *c, const char *data, size_t n) {
  uint64_t now = now_ns();
  if (!c->first) c->first = now;
  if (!stream || now < counted_from || now > counted_to) return;
  for (const char *at = data, *end = data + n; (at = memmem(at, end - at, "\"id\":\"c-", 8)); at += 8) {
    seen_events++;
    if (travels < MOST) travel[travels++] = (now - strtoull(at + 8, 0, 10)) / 1e3;
  }
}

static int heads(conn *c) {
  char *blank = memmem(c->in.data, c->in.len, "\r\n\r\n", 4);
  if (!blank) return 0;
  c->status = atoi(c->in.data + 9);
  c->left = header_number(c->in.data, blank, "content-length:", -1);
  c->chunked = c->left < 0;
  if (c->chunked) c->left = 0;
  c->head = 0;
  drop(&c->in, blank + 4 - c->in.data);
  return 1;
}

// Take what is here of an answer. A chunk's line end is counted to the chunk.
static void take(conn *c) {
  if (c->head && !heads(c)) return;
  if (!c->chunked) {
    size_t n = c->in.len < (size_t)c->left ? c->in.len : (size_t)c->left;
    if (n) look(c, c->in.data, n);
    drop(&c->in, n);
    if (!(c->left -= n)) finished(c);
    return;
  }
  size_t at = 0;
  while (at < c->in.len) {
    if (c->left) {
      size_t n = c->in.len - at < (size_t)c->left ? c->in.len - at : (size_t)c->left;
      look(c, c->in.data + at, n);
      at += n;
      c->left -= n;
      if (!c->left && c->done) { finished(c); return; }
      continue;
    }
    char *line = memchr(c->in.data + at, '\n', c->in.len - at);
    if (!line) break;
    c->left = strtol(c->in.data + at, 0, 16) + 2;
    c->done = c->left == 2;
    at = line + 1 - c->in.data;
  }
  drop(&c->in, at);
}

static void receive(conn *c) {
  for (;;) {
    grow(&c->in, 65536);
    ssize_t n = recv(c->fd, c->in.data + c->in.len, c->in.room - c->in.len, MSG_DONTWAIT);
    if (n > 0) { c->in.len += n; if (c->busy) take(c); continue; }
    if (n < 0 && errno == EAGAIN) return;
    if (c->busy) { errors++; c->busy = 0; }
    connect_to(c);
    return;
  }
}

static int by_size(const void *a, const void *b) { return (*(double *)a > *(double *)b) - (*(double *)a < *(double *)b); }
static double quantile(double *values, size_t n, double q) {
  if (!n) return -1;
  qsort(values, n, sizeof *values, by_size);
  return values[(size_t)(q * (n - 1))];
}

int main(int count, char **words) {
  port = atoi(words[1]);
  for (int o; (o = getopt(count - 1, words + 1, "c:d:w:r:sm:b:g:")) > 0;) {
    if (o == 'c') connections = atoi(optarg);
    if (o == 'd') seconds = atof(optarg);
    if (o == 'w') warm = atof(optarg);
    if (o == 'r') rate = atof(optarg);
    if (o == 's') stream = 1;
    if (o == 'm') tokens = atoi(optarg);
    if (o == 'b') prompt_bytes = atoi(optarg);
    if (o == 'g') gap = atol(optarg);
  }
  signal(SIGPIPE, SIG_IGN);
  latency = malloc(MOST * sizeof(double)), ttft = malloc(MOST * sizeof(double)), travel = malloc(MOST * sizeof(double));
  char *body = malloc(prompt_bytes + 256);
  int n = sprintf(body, "{\"model\":\"mock\",\"prompt\":\"");
  for (int i = 0; i < prompt_bytes; i++) body[n++] = i % 6 ? 'a' + i % 26 : ' ';
  n += sprintf(body + n, "\",\"max_tokens\":%d,\"seed\":%ld,\"stream\":%s}", tokens, gap, stream ? "true" : "false");
  grow(&text, n + 256);
  text.len = sprintf(text.data, "POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n", port, n);
  memcpy(text.data + text.len, body, n);
  text.len += n;
  events = epoll_create1(0);
  conn *all_of = calloc(connections, sizeof *all_of);
  for (int i = 0; i < connections; i++) connect_to(&all_of[i]);
  begun = now_ns(), counted_from = begun + warm * 1e9, counted_to = counted_from + seconds * 1e9;
  double next = begun;
  struct epoll_event ready[512];
  for (uint64_t now; (now = now_ns()) < counted_to;) {
    for (int i = 0; i < connections; i++) {
      if (all_of[i].busy || (rate && now < next)) continue;
      ask(&all_of[i], rate ? (uint64_t)next : now_ns());
      if (rate) next += 1e9 / rate;
    }
    int wait = rate ? (next > now ? (int)((next - now) / 1e6) : 0) : 100;
    int k = epoll_wait(events, ready, 512, wait > 100 ? 100 : wait);
    for (int i = 0; i < k; i++) receive(ready[i].data.ptr);
  }
  printf("{\"requests\":%llu,\"all_requests\":%llu,\"errors\":%ld,\"rps\":%.1f,\"p50_us\":%.1f,\"p99_us\":%.1f,\"ttft_p50_us\":%.1f,"
         "\"events_per_s\":%.1f,\"events\":%ld,\"travel_p50_us\":%.1f,\"travel_p99_us\":%.1f}\n",
         (unsigned long long)counted, (unsigned long long)all, errors, counted / seconds, quantile(latency, latencies, 0.5), quantile(latency, latencies, 0.99),
         quantile(ttft, ttfts, 0.5), seen_events / seconds, seen_events, quantile(travel, travels, 0.5), quantile(travel, travels, 0.99));
  return 0;
}
