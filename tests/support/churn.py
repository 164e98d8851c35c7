"""A made-up table of customers with what people's tables have: identifiers, texts, dates, booleans and blanks.

python tests/support/churn.py customers.csv
"""

import sys

import numpy as np
import pandas as pd


def make_customers(n=1200, seed=0):
    """Returns a table of n customers, whose column churn depends on some of the others."""
    rng = np.random.default_rng(seed)
    tenure, charges = rng.integers(1, 72, n), np.round(rng.uniform(20, 110, n), 2)
    contract = rng.choice(["monthly", "one year", "two years"], n, p=[0.55, 0.25, 0.2])
    paperless = rng.random(n) < 0.6
    villages = [f"Village {i}" for i in range(60)]
    city = rng.choice(["Aachen", "Bonn", "Celle", "Dresden", *villages], n, p=[0.2] * 4 + [0.2 / 60] * 60)
    score = -0.5 - 0.05 * tenure + 0.025 * (charges - 60) + 0.5 * paperless
    score += np.select([contract == "monthly", contract == "two years"], [1.6, -1.0])
    return pd.DataFrame(
        {
            "customer": [f"{i:04d}-{''.join(rng.choice([*'ABCDEFGH'], 5))}" for i in range(n)],
            "tenure": tenure,
            "charges": charges,
            "total": np.where(rng.random(n) < 0.05, np.nan, np.round(tenure * charges, 2)),
            "contract": contract,
            "paperless": paperless,
            "city": city,
            "since": (pd.Timestamp("2025-01-01") - pd.to_timedelta(tenure * 30, unit="D")).strftime("%Y-%m-%d"),
            "gender": np.where(rng.random(n) < 0.1, None, rng.choice(["f", "m"], n)),
            "churn": np.where(rng.random(n) < 1 / (1 + np.exp(-score)), "Yes", "No"),
        }
    )


if __name__ == "__main__":
    make_customers().to_csv(sys.argv[1], index=False)
