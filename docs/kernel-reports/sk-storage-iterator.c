// reproduce SOCKETS CLOSERS WALKERS SECONDS: sockets with a BPF_MAP_TYPE_SK_STORAGE element are closed while
// iter/bpf_sk_storage_map is read. Panics 7.0 to 7.3; only for a virtual machine. See sk-storage-iterator.md.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/btf.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static int map, walk_link, sockets;
static long walks, closes;

static int bpf(int command, union bpf_attr *attr)
{
	return syscall(SYS_bpf, command, attr, sizeof *attr);
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

// Bytes behind the twelve of a BTF type.
static size_t tail(const struct btf_type *type)
{
	unsigned members = BTF_INFO_VLEN(type->info);

	switch (BTF_INFO_KIND(type->info)) {
	case BTF_KIND_INT: case BTF_KIND_VAR: case BTF_KIND_DECL_TAG: return 4;
	case BTF_KIND_ARRAY: return 12;
	case BTF_KIND_ENUM: case BTF_KIND_FUNC_PROTO: return 8 * members;
	case BTF_KIND_STRUCT: case BTF_KIND_UNION: case BTF_KIND_DATASEC: case BTF_KIND_ENUM64: return 12 * members;
	default: return 0;
	}
}

// The number of a function in the kernel's BTF.
static int function(const char *name)
{
	size_t size = 64 << 20, length = 0;
	char *data = malloc(size);
	int id = 1, file = open("/sys/kernel/btf/vmlinux", O_RDONLY);
	ssize_t got;

	while ((got = read(file, data + length, size - length)) > 0)
		length += got;
	struct btf_header *header = (void *)data;
	char *strings = data + header->hdr_len + header->str_off;
	char *at = data + header->hdr_len + header->type_off, *end = at + header->type_len;

	for (; at < end; id++) {
		struct btf_type *type = (void *)at;

		if (BTF_INFO_KIND(type->info) == BTF_KIND_FUNC && !strcmp(strings + type->name_off, name))
			return id;
		at += sizeof *type + tail(type);
	}
	return -1;
}

static void *walk(void *unused)
{
	char buffer[4096];

	for (;;) {
		union bpf_attr attr = { .iter_create.link_fd = walk_link };
		int file = bpf(BPF_ITER_CREATE, &attr);

		if (file < 0)
			fail("iterator");
		while (read(file, buffer, sizeof buffer) > 0)
			;
		close(file);
		__atomic_add_fetch(&walks, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static void *close_sockets(void *unused)
{
	int *files = malloc(sockets * sizeof *files);
	long value = 1;

	for (;;) {
		int made = 0;

		for (; made < sockets; made++) {
			int file = socket(AF_INET, SOCK_STREAM, 0);

			if (file < 0)
				break;
			union bpf_attr attr = { .map_fd = map, .key = (long)&file, .value = (long)&value };
			if (bpf(BPF_MAP_UPDATE_ELEM, &attr) && !made)
				fail("element");
			files[made] = file;
		}
		for (int i = 0; i < made; i++)
			close(files[i]);
		__atomic_add_fetch(&closes, made, __ATOMIC_RELAXED);
	}
	return NULL;
}

// A map of 64-bit values; such a map needs BTF of its key and value.
static void make_map(void)
{
	struct {
		struct btf_header header;
		struct btf_type key;
		unsigned key_bits;
		struct btf_type value;
		unsigned value_bits;
		char names[16];
	} __attribute__((packed)) types = {
		{ 0xeb9f, 1, 0, sizeof(struct btf_header), 0, 2 * (sizeof(struct btf_type) + 4), 2 * (sizeof(struct btf_type) + 4), 16 },
		{ 1, BTF_KIND_INT << 24, { 4 } }, (BTF_INT_SIGNED << 24) | 32,
		{ 5, BTF_KIND_INT << 24, { 8 } }, 64,
		"\0int\0u64",
	};
	union bpf_attr load = { .btf = (long)&types, .btf_size = sizeof types };
	union bpf_attr make = {
		.map_type = BPF_MAP_TYPE_SK_STORAGE, .key_size = 4, .value_size = 8, .map_flags = BPF_F_NO_PREALLOC,
		.btf_key_type_id = 1, .btf_value_type_id = 2,
	};

	make.btf_fd = bpf(BPF_BTF_LOAD, &load);
	map = bpf(BPF_MAP_CREATE, &make);
	if (map < 0)
		fail("map");
}

// An iterator program that returns 0.
static void link_walk(void)
{
	struct bpf_insn code[] = { { .code = BPF_ALU64 | BPF_MOV | BPF_K }, { .code = BPF_JMP | BPF_EXIT } };
	union bpf_attr load = {
		.prog_type = BPF_PROG_TYPE_TRACING, .expected_attach_type = BPF_TRACE_ITER, .insns = (long)code, .insn_cnt = 2,
		.license = (long)"GPL", .attach_btf_id = function("bpf_iter_bpf_sk_storage_map"),
	};
	union bpf_iter_link_info info = { .map.map_fd = map };
	union bpf_attr link = {
		.link_create.attach_type = BPF_TRACE_ITER, .link_create.iter_info = (long)&info, .link_create.iter_info_len = sizeof info,
	};

	link.link_create.prog_fd = bpf(BPF_PROG_LOAD, &load);
	walk_link = bpf(BPF_LINK_CREATE, &link);
	if (walk_link < 0)
		fail("link");
}

int main(int count, char **words)
{
	struct rlimit files = { 100000, 100000 };
	pthread_t thread;

	if (count != 5) {
		fprintf(stderr, "usage: %s SOCKETS CLOSERS WALKERS SECONDS\n", words[0]);
		return 2;
	}
	sockets = atoi(words[1]);
	setrlimit(RLIMIT_NOFILE, &files);
	make_map();
	link_walk();
	for (int i = atoi(words[2]); i > 0; i--)
		pthread_create(&thread, NULL, close_sockets, NULL);
	for (int i = atoi(words[3]); i > 0; i--)
		pthread_create(&thread, NULL, walk, NULL);
	for (int i = atoi(words[4]); i > 0; i--) {
		sleep(1);
		printf("%d s left, %ld walks, %ld sockets closed\n", i - 1, walks, closes);
		fflush(stdout);
	}
	return 0;
}
