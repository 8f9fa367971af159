// Where things are in the virtio-net header that precedes every frame in memory.

/** struct virtio_net_hdr (linux/virtio_net.h). */
export const Vnet = {
  FLAGS: 0,
  GSO_TYPE: 1,
  HEADER_LENGTH: 2,
  GSO_SIZE: 4,
  CSUM_START: 6,
  CSUM_OFFSET: 8,
  NEEDS_CSUM: 1,
  DATA_VALID: 2,
  TCPV4: 1,
  UDP: 3,
  TCPV6: 4,
  UDP_L4: 5,
  ECN: 0x80,
} as const
