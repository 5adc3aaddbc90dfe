/* Asks an HTTP server the same thing over and over on several connections, each waiting for its answer before it asks again. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define HEAD_MAX 8192
#define READ_BYTES (1 << 18)

typedef struct {
    int fd;
    int64_t left; /* bytes of the body to come, -1 while the head is read */
    int head_bytes;
    double asked;
    char head[HEAD_MAX + 1];
} client_t;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int ask(client_t *c, const char *request, size_t bytes)
{
    c->left = -1, c->head_bytes = 0, c->asked = now();
    return send(c->fd, request, bytes, MSG_NOSIGNAL) == (ssize_t)bytes ? 0 : -1;
}

/* 1 when the answer is whole, 0 when more is to come, negative: broken, or no 200. */
static int take(client_t *c, char *room)
{
    ssize_t got = recv(c->fd, room, READ_BYTES, MSG_DONTWAIT);
    if (got <= 0)
        return got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) ? 0 : -1;
    if (c->left < 0) {
        int copied = (int)(got < HEAD_MAX - c->head_bytes ? got : HEAD_MAX - c->head_bytes), before = c->head_bytes;
        memcpy(c->head + before, room, (size_t)copied);
        c->head_bytes += copied, c->head[c->head_bytes] = 0;
        char *end = strstr(c->head, "\r\n\r\n");
        if (!end)
            return c->head_bytes == HEAD_MAX ? -2 : 0;
        if (strncmp(c->head, "HTTP/1.1 200", 12))
            return -3;
        char *length = strcasestr(c->head, "content-length:");
        if (!length || length > end)
            return -4;
        c->left = atoll(length + 15) - (got - (end + 4 - c->head - before));
    } else {
        c->left -= got;
    }
    return c->left == 0 ? 1 : c->left < 0 ? -5 : 0;
}

/* Answers within `seconds`, negative for a failure; lags: double[lags_max], seconds of the first answers; bytes: of heads and bodies. */
int64_t http_load(int port, const char *request, int64_t request_bytes, int connections, double seconds, double *lags, int64_t lags_max)
{
    client_t *clients = calloc((size_t)connections, sizeof *clients);
    char *room = malloc(READ_BYTES);
    int poll = epoll_create1(0), one = 1;
    struct sockaddr_in where = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int64_t answers = 0;
    for (int i = 0; i < connections && answers >= 0; i++) {
        client_t *c = clients + i;
        struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = c};
        c->fd = socket(AF_INET, SOCK_STREAM, 0);
        if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&where, sizeof where))
            answers = -10;
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        epoll_ctl(poll, EPOLL_CTL_ADD, c->fd, &wanted);
    }
    double end = now() + seconds;
    for (int i = 0; i < connections && answers >= 0; i++)
        if (ask(clients + i, request, (size_t)request_bytes))
            answers = -11;
    while (answers >= 0 && now() < end) {
        struct epoll_event ready[64];
        int count = epoll_wait(poll, ready, 64, 100);
        for (int i = 0; i < count && answers >= 0; i++) {
            client_t *c = ready[i].data.ptr;
            int done = take(c, room);
            if (done < 0) {
                answers = -20 + done;
            } else if (done) {
                if (answers < lags_max)
                    lags[answers] = now() - c->asked;
                answers++;
                if (ask(c, request, (size_t)request_bytes))
                    answers = -12;
            }
        }
    }
    for (int i = 0; i < connections; i++)
        close(clients[i].fd);
    close(poll), free(room), free(clients);
    return answers;
}
