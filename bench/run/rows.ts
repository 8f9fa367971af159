// What a run keeps, raw, and how a bench names and shows its figures.

/** One subject in one round of one part. Figures that could not be had are left out. */
export interface Row {
  readonly part: string
  readonly round: number
  readonly subject: string
  readonly figures: Readonly<Record<string, number>>
  readonly error: string | null
}

export interface Figure {
  readonly name: string
  readonly text: string
  readonly unit: string
  readonly better: 'more' | 'less'
  /** Shown as value divided by this. */
  readonly scale: number
  readonly digits: number
}

export interface Table {
  readonly title: string
  readonly figures: readonly Figure[]
}

export const figure = (
  name: string,
  text: string,
  unit: string,
  better: Figure['better'],
  scale = 1,
  digits = 1,
): Figure => ({ name, text, unit, better, scale, digits })

export const shown = ({ scale, digits }: Figure, value: number): string => (value / scale).toFixed(digits)

export interface Summary {
  readonly median: number
  readonly low: number
  readonly high: number
  readonly count: number
}

/** By subject and figure. */
export type Summaries = Readonly<Record<string, Readonly<Record<string, Summary>>>>

/** Who was measured, and in which setting. */
export interface SubjectNote {
  readonly id: string
  readonly title: string
  readonly setup: string
  readonly version: string
}
