// The `tag` color codec: epoch -> VID -> epoch, as long as both ends are within half the number of colors of each
// other.

import t from 'tap'
import {
  COLORS,
  colorVid,
  epochOfVid,
  GENERATIONS,
  generationOfVid,
  LAST_VID,
  UNCOLORED_VID,
} from '../../src/frame/color-tag.js'
import fc from '../property.js'

const HALF = Math.floor(COLORS / 2)

t.test('every epoch has a VID that 802.1Q allows, and never the escape', async (t) => {
  fc.assert(
    fc.property(fc.nat({ max: 0xffffffff }), fc.nat({ max: GENERATIONS - 1 }), (epoch, generation) => {
      const vid = colorVid(epoch, generation)
      return vid >= 1 && vid <= 0xffe && vid !== UNCOLORED_VID && generationOfVid(vid) === generation
    }),
  )
  const all = Array.from({ length: LAST_VID }, (_, at) => colorVid(Math.floor(at / GENERATIONS), at % GENERATIONS))
  t.equal(new Set(all).size, LAST_VID, 'all colors and generations differ')
  t.equal(colorVid(0), colorVid(COLORS))
})

t.test('round trip, for every distance below half the colors, also near 0 and 2^32', async (t) => {
  for (const reference of [0, 1, 5, HALF, COLORS - 1, COLORS, COLORS + 1, 3 * COLORS + 17, 2 ** 32 - 1, 2 ** 32]) {
    for (let distance = -HALF + 1; distance < HALF; distance++) {
      const epoch = reference + distance
      if (epoch < 0) continue
      const read = epochOfVid(colorVid(epoch), reference)
      if (read !== epoch) t.fail(`epoch ${epoch} read as ${read} against ${reference}`)
    }
  }
  fc.assert(
    fc.property(fc.nat({ max: 0xffffffff }), fc.integer({ min: -HALF + 1, max: HALF - 1 }), (reference, distance) => {
      const epoch = reference + distance
      fc.pre(epoch >= 0)
      return epochOfVid(colorVid(epoch), reference) === epoch
    }),
    { numRuns: 2000 },
  )
})

t.test('whatever the VID, the epoch read is never negative and has that VID', async () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: LAST_VID }), fc.nat({ max: 0xffffffff }), (vid, reference) => {
      const epoch = epochOfVid(vid, reference)
      const isNear = Math.abs(epoch - reference) <= (reference < HALF ? COLORS : HALF)
      return epoch >= 0 && colorVid(epoch, generationOfVid(vid)) === vid && isNear
    }),
    { numRuns: 2000 },
  )
})

t.test('of all epochs with that VID, it is the nearest', async () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: LAST_VID }),
      fc.integer({ min: COLORS, max: 0xffffffff }),
      (vid, reference) => {
        const epoch = epochOfVid(vid, reference)
        const distance = Math.abs(epoch - reference)
        return distance <= Math.abs(epoch - COLORS - reference) && distance <= Math.abs(epoch + COLORS - reference)
      },
    ),
    { numRuns: 1000 },
  )
})

t.test('a VID that is no color is said to be none', async (t) => {
  t.equal(epochOfVid(UNCOLORED_VID, 5), -1)
  t.equal(epochOfVid(0xfff, 5), -1)
  t.equal(epochOfVid(-1, 5), -1)
  t.equal(epochOfVid(LAST_VID + 1, 5), -1)
})
