// A small process that outlives the daemon by a moment: when that dies, it removes the pair, so that the bridge does
// not look for anybody's address there. Until somebody speaks, that would be where its frames to them go. Where no such
// process can be started, or it is killed as well, the next daemon removes the pair.

import { startSurvivor } from '../../src/linux/survivor.js'

/**
 * It waits for lines, and for the end of whoever could send them: the index of the device, when that is made, and an
 * empty one, which says that all is well. By its index, for the next daemon may have made one of the same name by then.
 */
const SCRIPT = `device=$1
while read -r index; do
  [ -n "$index" ] || exit
  device=if$index
done
exec ip link delete dev "$device"`

export interface Watchdog {
  /** The device is there, under this index. */
  made(index: number): void
  /** Nothing is to be removed any more. */
  end(): void
}

/** Call it before a device of that name is made, and when there is none. */
export function removeWithUs(device: string): Watchdog {
  const survivor = startSurvivor('snapswitch-pair', SCRIPT, device)
  return {
    made: (index) => survivor.say(String(index)),
    end: () => {
      survivor.say('')
      survivor.end()
    },
  }
}
