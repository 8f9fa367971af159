// Asks a network device's driver, by the device's index: it may be renamed at any time (linux/ethtool.h).

import { libc } from './libc.js'

const SIOCGIFNAME = 0x8910
const SIOCETHTOOL = 0x8946
/** struct ifreq: the name, then the index or a pointer. */
const request = new Uint8Array(40)
const requestView = new DataView(request.buffer)
const REQUEST_VALUE = 16

/**
 * `fd`: any socket's. `address`: of the command's structure, which begins with the command. Answers as ioctl(2) does.
 * Waits for the configuration lock (rtnl), which others may hold for a second: no thread that forwards may ask.
 */
export function ethtool(fd: number, ifindex: number, address: number): number {
  requestView.setInt32(REQUEST_VALUE, ifindex, true)
  const found = libc().ioctl(fd, SIOCGIFNAME, request)
  if (found < 0) return found
  requestView.setBigUint64(REQUEST_VALUE, BigInt(address), true)
  return libc().ioctl(fd, SIOCETHTOOL, request)
}
