// A worker that answers at once: worker PORT context|generation
// Speaks enough of TensorRT-LLM's, vLLM's and SGLang's wire for their routers. "seed": N in a request is N microseconds between two tokens.
#include "http.h"

typedef struct conn {
  int fd, chat, index, left, slot, closed;
  uint64_t due, gap;
  buffer in, out;
} conn;

static int context, events;
static conn *streams[65536];
static int stream_count;

static void watch(conn *c, int op) {
  struct epoll_event e = {.events = EPOLLIN | (c->out.len ? EPOLLOUT : 0), .data.ptr = c};
  epoll_ctl(events, op, c->fd, &e);
}

static void stop_stream(conn *c) {
  if (c->slot < 0) return;
  streams[c->slot] = streams[--stream_count];
  streams[c->slot]->slot = c->slot;
  c->slot = -1;
}

static void end(conn *c) {
  if (c->closed) return;
  stop_stream(c);
  close(c->fd);
  c->closed = 1;
}

static void flush(conn *c) {
  size_t before = c->out.len;
  while (c->out.len) {
    ssize_t n = send(c->fd, c->out.data, c->out.len, MSG_NOSIGNAL);
    if (n < 0) {
      if (errno != EAGAIN) end(c);
      break;
    }
    drop(&c->out, n);
  }
  if (!c->closed && (before || c->out.len)) watch(c, EPOLL_CTL_MOD);
}

static void put(conn *c, const char *data, size_t n) {
  if (!c->out.len) {
    ssize_t sent = send(c->fd, data, n, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) { end(c); return; }
    if (sent > 0) { data += sent; n -= sent; }
    if (!n) return;
  }
  grow(&c->out, n);
  memcpy(c->out.data + c->out.len, data, n);
  c->out.len += n;
  watch(c, EPOLL_CTL_MOD);
}

// The next token of a stream as one chunk of HTTP; the time of sending is its id, so that the client can see how long it was on its way.
static void next_token(conn *c) {
  char event[512], chunk[640];
  const char *finish = c->left == 1 ? "\"length\"" : "null";
  int n = c->chat
    ? snprintf(event, sizeof event, "data: {\"id\":\"c-%llu\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"mock\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" token\"},\"logprobs\":null,\"finish_reason\":%s}],\"usage\":null}\n\n", (unsigned long long)now_ns(), finish)
    : snprintf(event, sizeof event, "data: {\"id\":\"c-%llu\",\"object\":\"text_completion\",\"created\":1,\"model\":\"mock\",\"choices\":[{\"index\":0,\"text\":\" token\",\"logprobs\":null,\"finish_reason\":%s,\"stop_reason\":null}],\"usage\":null}\n\n", (unsigned long long)now_ns(), finish);
  int m = snprintf(chunk, sizeof chunk, "%x\r\n%s\r\n", n, event);
  if (!--c->left) {
    m += snprintf(chunk + m, sizeof chunk - m, "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n");
    stop_stream(c);
  }
  put(c, chunk, m);
}

static void whole(conn *c, const char *body, int n) {
  char *out = malloc(n + 128);
  int head = sprintf(out, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n", n);
  memcpy(out + head, body, n);
  put(c, out, head + n);
  free(out);
}

static const char ABOUT[] = "{\"status\":\"ok\",\"object\":\"list\",\"model_path\":\"mock\",\"served_model_name\":\"mock\",\"tokenizer_path\":\"mock\",\"is_generation\":true,"
  "\"dp_size\":1,\"tp_size\":1,\"version\":\"0.5.0\",\"disaggregation_bootstrap_port\":9000,\"data\":[{\"id\":\"mock\",\"object\":\"model\",\"created\":1,\"owned_by\":\"mock\"}]}";
static const char PARAMS[] = ",\"disaggregated_params\":{\"request_type\":\"context_only\",\"first_gen_tokens\":[7],\"ctx_request_id\":1234567,\"draft_tokens\":null,"
  "\"encoded_opaque_state\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"}";
static const char TAIL[] = "],\"usage\":{\"prompt_tokens\":8,\"total_tokens\":9,\"completion_tokens\":1},\"prompt_token_ids\":[1,2,3,4,5,6,7,8],"
  "\"kv_transfer_params\":{\"do_remote_prefill\":true,\"do_remote_decode\":false,\"remote_block_ids\":[1,2,3],\"remote_engine_id\":\"e\",\"remote_host\":\"127.0.0.1\",\"remote_port\":5600}}";

static void answer(conn *c, const char *head, const char *body, size_t n) {
  if (!strncmp(head, "GET", 3)) { whole(c, ABOUT, sizeof ABOUT - 1); return; }
  c->chat = memmem(head, 64, "/chat/", 6) != 0;
  long tokens = number_after(body, n, "max_tokens", number_after(body, n, "max_completion_tokens", 16));
  if (context) tokens = 1;
  if (memmem(body, n, "\"stream\":true", 13) || memmem(body, n, "\"stream\": true", 14)) {
    static const char h[] = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";
    put(c, h, sizeof h - 1);
    if (c->closed) return;
    c->gap = context ? 0 : 1000 * number_after(body, n, "seed", 0);
    c->left = tokens;
    c->due = now_ns() + c->gap;
    c->slot = stream_count;
    streams[stream_count++] = c;
    return;
  }
  char out[1400];
  const char *text = c->chat ? "\"message\":{\"role\":\"assistant\",\"content\":\" token\"}" : "\"text\":\" token\"";
  int m = snprintf(out, sizeof out, "{\"id\":\"c-1\",\"object\":\"%s\",\"created\":1,\"model\":\"mock\",\"choices\":[{\"index\":0,%s,\"logprobs\":null,\"finish_reason\":\"length\"%s}%s",
                   c->chat ? "chat.completion" : "text_completion", text, context ? PARAMS : "", TAIL);
  whole(c, out, m);
}

static void requests(conn *c) {
  while (!c->closed && c->slot < 0) {
    char *blank = c->in.len ? memmem(c->in.data, c->in.len, "\r\n\r\n", 4) : 0;
    if (!blank) return;
    size_t head = blank + 4 - c->in.data, body = header_number(c->in.data, blank, "content-length:", 0);
    if (memmem(c->in.data, head, "chunked", 7)) {
      char *last = memmem(blank + 4, c->in.len - head, "0\r\n\r\n", 5);
      if (!last) return;
      body = last + 5 - blank - 4;
    }
    if (c->in.len < head + body) return;
    answer(c, c->in.data, c->in.data + head, body);
    drop(&c->in, head + body);
  }
}

static void receive(conn *c) {
  for (;;) {
    grow(&c->in, 16384);
    ssize_t n = recv(c->fd, c->in.data + c->in.len, c->in.room - c->in.len, 0);
    if (n > 0) { c->in.len += n; continue; }
    if (!n || errno != EAGAIN) end(c);
    break;
  }
  requests(c);
}

static int until_due(void) {
  uint64_t now = now_ns(), first = UINT64_MAX;
  for (int i = 0; i < stream_count; i++)
    if (!streams[i]->out.len && streams[i]->due < first) first = streams[i]->due;
  return first == UINT64_MAX ? -1 : first <= now ? 0 : (int)((first - now + 999999) / 1000000);
}

int main(int count, char **words) {
  if (count < 3) return 2;
  signal(SIGPIPE, SIG_IGN);
  context = !strcmp(words[2], "context");
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  struct sockaddr_in address = loopback(atoi(words[1]));
  if (bind(listener, (void *)&address, sizeof address) || listen(listener, 4096)) { perror("worker"); return 1; }
  events = epoll_create1(0);
  struct epoll_event e = {.events = EPOLLIN}, ready[512];
  epoll_ctl(events, EPOLL_CTL_ADD, listener, &e);
  for (;;) {
    int n = epoll_wait(events, ready, 512, until_due());
    for (int i = 0; i < n; i++) {
      conn *c = ready[i].data.ptr;
      if (!c) {
        for (int fd; (fd = accept4(listener, 0, 0, SOCK_NONBLOCK)) >= 0;) {
          setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
          c = calloc(1, sizeof *c);
          c->fd = fd;
          c->slot = -1;
          watch(c, EPOLL_CTL_ADD);
        }
        continue;
      }
      if (ready[i].events & EPOLLOUT) flush(c);
      if (!c->closed && ready[i].events & ~EPOLLOUT) receive(c);
      if (c->closed) { free(c->in.data); free(c->out.data); free(c); }
    }
    uint64_t now = now_ns();
    for (int i = stream_count - 1; i >= 0; i--) {
      conn *c = streams[i];
      if (c->out.len || c->due > now) continue;
      c->due = c->gap ? c->due + c->gap : now;
      next_token(c);  // an error is seen, and the connection freed, when epoll tells of it
      if (!c->closed && c->slot < 0) requests(c);
    }
  }
}
