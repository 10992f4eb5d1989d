/* Preloaded into a process: notes each name that it resolves and each address that it connects or sends to, native
 * libraries included. The lines go to the file that NETWORK_SPY_LOG names. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static void note(const char *call, const char *target) {
    char line[512];
    int length = snprintf(line, sizeof line, "%s %s\n", call, target);
    int log = open(getenv("NETWORK_SPY_LOG"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (log >= 0) {
        if (write(log, line, (size_t)length) < 0) abort();
        close(log);
    }
}

static void note_address(const char *call, const struct sockaddr *address) {
    char text[INET6_ADDRSTRLEN] = "";
    if (address == NULL) return;
    if (address->sa_family == AF_INET)
        inet_ntop(AF_INET, &((const struct sockaddr_in *)address)->sin_addr, text, sizeof text);
    else if (address->sa_family == AF_INET6)
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)address)->sin6_addr, text, sizeof text);
    else
        return;
    note(call, text);
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    int (*next)(const char *, const char *, const struct addrinfo *, struct addrinfo **) = dlsym(RTLD_NEXT, "getaddrinfo");
    note("resolve", node ? node : "-");
    return next(node, service, hints, found);
}

struct hostent *gethostbyname(const char *name) {
    struct hostent *(*next)(const char *) = dlsym(RTLD_NEXT, "gethostbyname");
    note("resolve", name);
    return next(name);
}

int connect(int socket, const struct sockaddr *address, socklen_t length) {
    int (*next)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "connect");
    note_address("connect", address);
    return next(socket, address, length);
}

ssize_t sendto(int socket, const void *data, size_t size, int flags, const struct sockaddr *address, socklen_t length) {
    ssize_t (*next)(int, const void *, size_t, int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "sendto");
    note_address("send", address);
    return next(socket, data, size, flags, address, length);
}
