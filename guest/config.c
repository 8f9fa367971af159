// The guest's configuration, from the kernel command line: words `lab.key=value`, described in guest/README.md.
// A value that cannot be understood ends the program with an error line: a typing error must not become a quiet default.
#include "lab.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void bad(const char *key, const char *value) {
  report("{\"type\":\"error\",\"what\":\"config\",\"key\":\"%.40s\",\"value\":\"%.80s\"}", key, value);
  exit(2);
}

static uint64_t number(const char *key, const char *value) {
  char *end;
  uint64_t n = strtoull(value, &end, 10);
  if (*value == 0 || *end != 0) bad(key, value);
  return n;
}

// stream@address:port/rate or stream@address:port/rate/count
static void add_send(const char *key, const char *value) {
  char address[32];
  unsigned stream, port, rate;
  unsigned long long count = 0;
  int n = sscanf(value, "%u@%31[0-9.]:%u/%u/%llu", &stream, address, &port, &rate, &count);
  if (n < 4 || port == 0 || port > 65535 || rate == 0 || config.sends == MAX_STREAMS) bad(key, value);
  struct send_spec *s = &config.send[config.sends++];
  s->stream = stream;
  s->rate = rate;
  s->count = count;
  s->to.sin_family = AF_INET;
  s->to.sin_port = htons((uint16_t)port);
  if (inet_pton(AF_INET, address, &s->to.sin_addr) != 1) bad(key, value);
}

// stream@port
static void add_receive(const char *key, const char *value) {
  unsigned stream, port;
  if (sscanf(value, "%u@%u", &stream, &port) != 2 || port == 0 || port > 65535 || config.receives == MAX_STREAMS)
    bad(key, value);
  config.receive[config.receives++] = (struct receive_spec){.stream = stream, .port = (uint16_t)port};
}

// shop@port, bank@port/shop:port, buyer@bank:port/shop:port
static void set_orders(const char *key, const char *value) {
  char bank[32] = "0.0.0.0", shop[32] = "0.0.0.0";
  unsigned own = 0, bank_port = 0, shop_port = 0;
  struct orders_spec *o = &config.orders;
  if (sscanf(value, "shop@%u", &own) == 1) o->role = SHOP;
  else if (sscanf(value, "bank@%u/%31[0-9.]:%u", &own, shop, &shop_port) == 3) o->role = BANK;
  else if (sscanf(value, "buyer@%31[0-9.]:%u/%31[0-9.]:%u", bank, &bank_port, shop, &shop_port) == 4) o->role = BUYER;
  else bad(key, value);
  o->port = (uint16_t)own;
  o->bank = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)bank_port)};
  o->shop = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)shop_port)};
  if (inet_pton(AF_INET, bank, &o->bank.sin_addr) != 1 || inet_pton(AF_INET, shop, &o->shop.sin_addr) != 1)
    bad(key, value);
}

static void add_node(const char *key, const char *value) {
  if (config.nodes == MAX_NODES || inet_pton(AF_INET, value, &config.ring[config.nodes++]) != 1) bad(key, value);
}

// address/prefix: init gives it to eth0, the program's sockets bind to it
static void set_address(const char *key, char *value) {
  char *slash = strchr(value, '/');
  if (slash != NULL) *slash = 0;
  if (inet_pton(AF_INET, value, &config.address) != 1) bad(key, value);
}

static void each(const char *key, char *list, void (*add)(const char *, const char *)) {
  char *rest;
  for (char *item = strtok_r(list, ",", &rest); item != NULL; item = strtok_r(NULL, ",", &rest)) add(key, item);
}

static void set(const char *key, char *value) {
  if (strcmp(key, "ip") == 0) set_address(key, value);
  else if (strcmp(key, "node") == 0) config.node = (uint32_t)number(key, value);
  else if (strcmp(key, "ring") == 0) each(key, value, add_node);
  else if (strcmp(key, "hops") == 0) config.hops = number(key, value);
  else if (strcmp(key, "hop_delay_us") == 0) config.hop_delay_us = (uint32_t)number(key, value);
  else if (strcmp(key, "journal_every") == 0) config.journal_every = (uint32_t)number(key, value);
  else if (strcmp(key, "disk") == 0) snprintf(config.disk, sizeof config.disk, "%s", value);
  else if (strcmp(key, "send") == 0) each(key, value, add_send);
  else if (strcmp(key, "orders") == 0) set_orders(key, value);
  else if (strcmp(key, "receive") == 0) each(key, value, add_receive);
  else bad(key, value);
}

static void read_command_line(char *line, size_t room) {
  int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? -1 : read(fd, line, room - 1);
  if (fd >= 0) close(fd);
  if (n < 0) bad("cmdline", "unreadable");
}

void config_read(const char *words) {
  static char line[4096];
  config.journal_every = 10;
  config.hops = 1000;
  if (words != NULL) snprintf(line, sizeof line, "%s", words);
  else read_command_line(line, sizeof line);
  char *rest;
  for (char *word = strtok_r(line, " \n", &rest); word != NULL; word = strtok_r(NULL, " \n", &rest)) {
    char *equals = strchr(word, '=');
    if (strncmp(word, "lab.", 4) != 0 || equals == NULL) continue;
    *equals = 0;
    set(word + 4, equals + 1);
  }
  if (config.journal_every == 0) bad("journal_every", "0");
  if (config.nodes > 0 && (config.nodes < 2 || config.node >= config.nodes || config.hops < config.nodes))
    bad("ring", "node, nodes and hops do not fit");
}
